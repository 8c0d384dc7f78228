"""Which keys a row of attention sees, and at which distances: masks, padding, caches, packed documents."""

import torch
from torch.nn import functional as F

# Scores in memory at once.
BLOCK = 1 << 24


def is_known(condition):
    """Whether it is true, as far as can be said: while a model is compiled, or on the meta device, nothing can."""
    return not (torch.compiler.is_compiling() or condition.is_meta) and bool(condition)


def expect(condition, name, expected, got):
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {got}")


def packed(position_ids, begins):
    """Positions of a row of packed documents, of whose tokens some begin one; `position_ids`, if any, say the same."""
    places = torch.arange(begins.shape[-1], device=begins.device)
    counted = places - torch.where(begins, places, 0).cummax(-1).values
    same = position_ids is None or not is_known((position_ids != counted).any())
    expect(same, "position_ids", "those of the documents that cu_seq_lens or seq_idx tell", "others")
    return counted


def begins_of(cu_seq_lens, batch, length, device):
    """Whether each token begins a document, `[1, length]`, from the places between documents."""
    expect(batch == 1, "cu_seq_lens", "one row of packed documents", f"{batch} rows")
    wrong = (cu_seq_lens[0] != 0) | (cu_seq_lens[-1] != length)
    expect(not is_known(wrong), "cu_seq_lens", f"places from 0 to {length}", cu_seq_lens)
    return torch.isin(torch.arange(length, device=device), cu_seq_lens.to(device))[None]


class Sight:
    """The keys that new tokens see, and at which distances.

    A key's distance is the number of tokens behind it that the row sees, whatever lies between them. Where `position_ids`
    say other than that, it is the difference of positions, and a position that goes back begins a document.
    """

    def __init__(self, batch, length, device, mask=None, position_ids=None, cache=None):
        before = 0 if cache is None else cache.get_seq_length()
        # A compiled graph keeps the length of a cache of a fixed size as a tensor.
        self.before = before if torch.compiler.is_compiling() else int(before)
        # Where the new tokens stand, padding included.
        self.places = torch.arange(length, device=device) + self.before
        # Of keys: whether each is a token, their positions, and the documents they belong to.
        self.is_token = self.key_positions = self.documents = None
        # Of rows and keys: whether one sees the other, and what is added to the score.
        self.matrix = self.bias = None
        if mask is not None:
            self._read(mask, batch, length)
        self.positions = self._counted()
        self._place(position_ids, batch, cache, isolated=mask is None and cache is None)

    def _read(self, mask, batch, length):
        shape = list(mask.shape)
        if mask.dim() == 2:
            if not torch.compiler.is_compiling():
                expected = [batch, self.before + length]
                expect(shape == expected, "attention_mask", f"{expected}, all tokens so far", shape)
            if not is_known(mask.bool().all()):
                self.is_token = mask.bool()
            return
        rows = [sizes + [1, length] for sizes in ([batch], [1])]
        expect(shape[:3] in rows, "attention_mask", f"[batch, tokens so far] or {rows[0]} with a place a key", shape)
        mask = mask[:, 0]
        self.matrix = mask.bool()
        if mask.is_floating_point():
            self.matrix = mask > torch.finfo(mask.dtype).min / 2
            self.bias = mask.float().masked_fill(~self.matrix, 0)
        ahead = torch.arange(shape[3], device=mask.device) > self.places[:, None]
        expect(not is_known((self.matrix & ahead).any()), "attention_mask", "no look ahead", "later keys that are seen")

    def _counted(self):
        """A token's position is the number of tokens that it sees before it."""
        if self.matrix is not None:
            own = torch.arange(self.matrix.shape[-1], device=self.places.device) == self.places[:, None]
            return (self.matrix | own).sum(-1) - 1
        if self.is_token is not None:
            return (self.is_token.long().cumsum(-1) - 1).clamp(min=0)[:, -len(self.places):]
        return self.places[None]

    def _place(self, position_ids, batch, cache, isolated):
        """Takes positions that are not those counted; the cache remembers them."""
        cached = isinstance(self.before, torch.Tensor) or self.before > 0
        if not cached and getattr(cache, "positions", None) is not None:
            cache.positions = None  # It was emptied since.
        stored = getattr(cache, "positions", None)
        if position_ids is None:
            expect(stored is None, "position_ids", "some, as the cached tokens had", "none")
            return
        shape, length = list(position_ids.shape), len(self.places)
        expect(shape in ([1, length], [batch, length]), "position_ids", f"{[batch, length]}", shape)
        same = position_ids == self.positions
        if self.is_token is not None:
            same = same | ~self.is_token[:, -length:]
        if stored is None and is_known(same.all()):
            return
        if cache is not None and torch.compiler.is_compiling():
            expect(stored is None, "position_ids", "those counted, in a compiled model with a cache", "others before")
            torch._assert_async(same.all(), "position_ids: expected those counted, in a compiled model with a cache")
            return
        self.positions = position_ids.expand(batch, -1)
        if stored is not None:
            past = stored[:, : self.before].repeat_interleave(batch // stored.shape[0], 0)
        elif self.is_token is not None:
            past = (self.is_token.long().cumsum(-1) - 1)[:, :-length]
        else:
            past = torch.arange(self.before, device=position_ids.device).expand(batch, -1)
        self.key_positions = torch.cat([past.to(position_ids), self.positions], 1)
        if cache is not None:
            cache.positions = self.key_positions
        if self.matrix is None:
            self.documents = self._documents(isolated)

    def _documents(self, isolated):
        """The number of each key's document. Without mask and cache a leap ahead begins one too, as for transformers."""
        places = torch.arange(self.key_positions.shape[1], device=self.places.device).expand_as(self.key_positions)
        latest = places if self.is_token is None else torch.where(self.is_token, places, 0).cummax(-1).values
        step = self.key_positions[:, 1:] - self.key_positions.gather(1, latest[:, :-1])
        begins = (step != 1) if isolated else (step <= 0)
        if self.is_token is not None:
            begins = begins & self.is_token[:, 1:]
        return F.pad(begins.long(), (1, 0)).cumsum(-1)

    def rows(self, first, count, keys):
        """`[batch or 1, count, keys]`: whether rows from `first` on see each key, and its distance."""
        # A cache of a fixed size has places that nothing was written to.
        fit = lambda x: x if x.shape[-1] == keys else F.pad(x, (0, keys - x.shape[-1]))
        chosen = slice(first, first + count)
        key, place = torch.arange(keys, device=self.places.device), self.places[chosen, None]
        visible = (key <= place)[None]
        if self.matrix is not None:
            width = self.matrix.shape[-1]
            expect(width == keys, "attention_mask", f"a place for each of {keys} keys", width)
            visible = self.matrix[:, chosen]
        if self.is_token is not None:
            visible = visible & fit(self.is_token)[:, None]
        if self.documents is not None:
            own = self.documents[:, self.places[chosen]]
            visible = visible & (own[:, :, None] == fit(self.documents)[:, None])
        if self.key_positions is not None:
            return visible, self.positions[:, chosen, None] - fit(self.key_positions)[:, None]
        if self.matrix is None and self.is_token is None:
            return visible, (place - key)[None]
        tokens = visible | (key == place)
        return visible, tokens.sum(-1, keepdim=True) - tokens.cumsum(-1)

    def of_tokens(self, numbers):
        """Numbers of keys, `[batch, heads, keys]`, with 0 for those that are padding."""
        if self.is_token is None:
            return numbers
        padded = F.pad(~self.is_token, (0, numbers.shape[-1] - self.is_token.shape[-1]))
        return numbers.masked_fill(padded[:, None], 0)

    def runs(self, queries, keys, padding):
        """The documents of rows and keys for `bam_attention`, of which `None` is one, and `padding` none; False where
        places do not tell distances, or that can't be known."""
        if self.matrix is not None or self.key_positions is not None or torch.compiler.is_compiling():
            return False
        if self.is_token is None:
            return None
        is_token = F.pad(self.is_token, (0, keys - self.is_token.shape[-1])).int()
        begins = (is_token - F.pad(is_token, (1, 0))[:, :-1] == 1).sum(-1)
        if is_token.is_meta or (begins > 1).any():
            return False
        documents = (is_token - 1) * -padding
        return documents[:, self.before : self.before + queries], documents

    def farthest(self, keys):
        """A bound of distances, where there is one that can be known."""
        if self.key_positions is None:
            return keys
        if torch.compiler.is_compiling() or self.key_positions.is_meta:
            return None
        reach = int(self.key_positions.max() - self.key_positions.min()) + 1
        return reach if reach <= BLOCK else None
