"""CUDA C++ to PTX by NVRTC, as CubeCL's runtime calls it, without a GPU.

    nvrtc.py TOOLS ARCHITECTURE FILE.cu...

writes FILE.ARCHITECTURE.ptx beside each file; ends with 1 where one does not compile.
"""

import ctypes
import pathlib
import sys

tools, architecture, *files = sys.argv[1:]
(library,) = pathlib.Path(tools, "lib").glob("libnvrtc.so.*")
nvrtc = ctypes.CDLL(str(library))
include = [f"--include-path={tools}/include{more}" for more in ("", "/cccl")]
options = [option.encode() for option in [f"--gpu-architecture={architecture}", *include, "-lineinfo"]]


def text(program, size, get):
    length = ctypes.c_size_t()
    size(program, ctypes.byref(length))
    buffer = ctypes.create_string_buffer(length.value)
    get(program, buffer)
    return buffer.value


failed = 0
for name in files:
    program = ctypes.c_void_p()
    source = pathlib.Path(name).read_bytes()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None)
    if nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)):
        failed = 1
        log = text(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
        print(f"{name}: NVRTC for {architecture}: {log.decode(errors='replace')}", file=sys.stderr)
    else:
        ptx = text(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
        pathlib.Path(name).with_suffix(f".{architecture}.ptx").write_bytes(ptx)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
sys.exit(failed)
