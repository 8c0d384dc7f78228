import torch

torch.set_num_threads(max(2, torch.get_num_threads()))
