"""The operation as PyTorch's dispatcher knows it: `torch.ops.bam_attention.attend` and its backward pass."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch._C import _from_dlpack as from_dlpack
from torch.utils.dlpack import to_dlpack

from . import _native
from . import _operation as operation

_LIBRARY = torch.library.Library("bam_attention", "DEF")
_RULES = (
    "bool causal, SymInt query_offset, SymInt? window, SymInt first_lag, str temperature_scope, str skipping"
)
_OPERANDS = (
    "Tensor q, Tensor k, Tensor v, Tensor ln_weights, Tensor? temperature, Tensor? query_documents, "
    "Tensor? key_documents"
)
_LIBRARY.define(f"attend({_OPERANDS}, {_RULES}) -> (Tensor, Tensor)")
_LIBRARY.define(
    f"attend_backward(Tensor gradient, Tensor out, Tensor ln_evidence, {_OPERANDS}, {_RULES}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_TYPES = (torch.float32, torch.bfloat16)
_PLAIN = (Tensor, torch.nn.Parameter, type(None))


def attend(q, k, v, log_prior, causal, query_offset, window, documents, temperature, temperature_scope, skipping):
    """`bam_attention.attend` on tensors of PyTorch."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
        if x.dtype not in _TYPES or x.device.type != "cpu" or x.dtype != q.dtype:
            raise TypeError(
                f"{name}: expected float32 or bfloat16 on the CPU, the same for q, k and v, got {_kind(x)}"
            )
        if x.dim() != 4:
            raise ValueError(f"{name}: expected [batch, heads, tokens, dim], got {list(x.shape)}")
    prior = operation.prior_of(log_prior, _is_tensor, q.shape[2], k.shape[2], causal, query_offset)
    ln_weights = _floats("log_prior", prior.ln_weights)
    if temperature is not None:
        temperature = _broadcast(_floats("temperature", temperature), q.shape[:3])
    of_queries, of_keys = _documents(documents)
    operands = (q, k, v, ln_weights, temperature)
    if torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling():
        call = _Transformed.apply
    elif not _is_plain(*operands):
        call = torch.ops.bam_attention.attend
    elif torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in operands):
        call = _Attend.apply
    else:
        call = _attend
    out, _ = call(
        *operands, of_queries, of_keys, causal, query_offset, window, prior.first_lag, temperature_scope,
        operation.skipping_as_text(skipping),
    )
    return out.to(q.dtype)


def _is_plain(*tensors) -> bool:
    """Whether nothing traces, transforms or watches: then the dispatcher, which costs more than a short call, has
    nothing to do."""
    return (
        not torch.compiler.is_compiling()
        and all(type(x) in _PLAIN for x in tensors)
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch.jit.is_tracing()
    )


def _is_tensor(x) -> bool:
    return isinstance(x, Tensor)


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} on {x.device}"


def _floats(name: str, x) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.dtype not in _TYPES or x.device.type != "cpu":
        raise TypeError(f"{name}: expected float32 or bfloat16 on the CPU, got {_kind(x)}")
    return x.float()


def _documents(documents) -> tuple[Tensor | None, Tensor | None]:
    """Those of the queries and of the keys."""
    if documents is None:
        return None, None
    of_queries, of_keys = operation.pair_of_documents(documents)
    return _integers(of_queries), _integers(of_keys)


def _integers(ids) -> Tensor:
    if not isinstance(ids, Tensor):
        raise TypeError(f"documents: expected a tensor, got {type(ids).__name__}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.device.type != "cpu":
        raise TypeError(f"documents: expected integers on the CPU, got {_kind(ids)}")
    if ids.dim() != 2:
        raise ValueError(f"documents: expected [batch, tokens], got {list(ids.shape)}")
    return ids.int()


def _broadcast(temperature: Tensor, shape) -> Tensor:
    rows = shape[0] if temperature.dim() == 3 and temperature.shape[0] != 1 else 1
    try:
        return temperature.expand(rows, *shape[1:])
    except RuntimeError:
        raise ValueError(f"temperature: expected {list(shape)}, or less, got {list(temperature.shape)}") from None


def _rows(x: Tensor):
    """Rows as the kernel reads them in place, else a copy."""
    return to_dlpack(x if x.shape[-1] <= 1 or x.stride(-1) == 1 else x.contiguous())


def _numbers(x: Tensor | None):
    """Numbers one after the other, if there are some."""
    return None if x is None else to_dlpack(x.contiguous())


def _ids(of_queries: Tensor | None, of_keys: Tensor | None):
    """Documents as the kernel takes them."""
    return None if of_queries is None else [_numbers(of_queries), _numbers(of_keys)]


def _operands(q, k, v, ln_weights, temperature, of_queries, of_keys, *rules):
    return (
        _rows(q),
        _rows(k),
        _rows(v),
        _numbers(ln_weights),
        _numbers(temperature),
        _ids(of_queries, of_keys),
        _rules(*rules, torch.get_num_threads()),
    )


@functools.lru_cache(256)
def _rules(causal, query_offset, window, first_lag, temperature_scope, skipping, threads) -> _native.Rules:
    return _native.Rules(
        causal=causal,
        query_offset=query_offset,
        window=window,
        first_lag=first_lag,
        temperature_scope=temperature_scope,
        skipping=skipping,
        threads=threads,
    )


def _attend(*arguments):
    out, ln_evidence = _native.forward(_operands(*arguments))
    return from_dlpack(out), from_dlpack(ln_evidence)


def _attend_backward(gradient, out, ln_evidence, q, k, v, *rest):
    operands = _operands(q, k, v, *rest)
    gradients = _native.backward(_rows(gradient), to_dlpack(out), to_dlpack(ln_evidence), operands)
    d_q, d_k, d_v, d_ln_weights, *d_temperature = map(from_dlpack, gradients)
    return (
        *(d.to(of.dtype) for d, of in ((d_q, q), (d_k, k), (d_v, v))),
        d_ln_weights,
        *(d_temperature or [torch.empty(0)]),
    )


_LIBRARY.impl("attend", _attend, "CPU")
_LIBRARY.impl("attend_backward", _attend_backward, "CPU")


@torch.library.register_fake("bam_attention::attend", lib=_LIBRARY)
def _(q, k, v, ln_weights, *_rest):
    return (
        torch.empty(q.shape, dtype=torch.float32, device=q.device),
        torch.empty(q.shape[:3], dtype=torch.float32, device=q.device),
    )


@torch.library.register_fake("bam_attention::attend_backward", lib=_LIBRARY)
def _(gradient, out, ln_evidence, q, k, v, ln_weights, temperature, *_rest):
    like = [torch.empty(of.shape, dtype=of.dtype, device=of.device) for of in (q, k, v, ln_weights)]
    shape = 0 if temperature is None else temperature.shape
    return (*like, torch.empty(shape, dtype=torch.float32, device=q.device))


def _keep(ctx, inputs, output):
    tensors, ctx.rules = inputs[:7], inputs[7:]
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _back(ctx, gradient, _of_evidence):
    *tensors, out, ln_evidence = ctx.saved_tensors
    nothing = (None,) * len(ctx.rules)
    if gradient is None:
        return (None,) * 7 + nothing
    call = _attend_backward if _is_plain(gradient, *tensors[:4]) else torch.ops.bam_attention.attend_backward
    *gradients, of_temperature = call(gradient, out, ln_evidence, *tensors, *ctx.rules)
    return (*gradients, None if tensors[4] is None else of_temperature, None, None) + nothing


torch.library.register_autograd("bam_attention::attend", _back, setup_context=_keep, lib=_LIBRARY)


class _Attend(torch.autograd.Function):
    """The same step of the graph without the dispatcher."""

    @staticmethod
    def forward(ctx, *arguments):
        output = _attend(*arguments)
        _keep(ctx, arguments, output)
        return output

    backward = staticmethod(torch.autograd.function.once_differentiable(_back))


def _no_vmap(_info, _in_dims, *_arguments):
    raise NotImplementedError("bam_attention.attend under torch.func.vmap: fold that axis into the batch instead")


class _Transformed(torch.autograd.Function):
    """The same for `torch.func`, which the autograd of `torch.library` does not know."""

    @staticmethod
    def forward(*arguments):
        return _attend(*arguments)

    setup_context = staticmethod(_keep)
    backward = staticmethod(_back)
    vmap = staticmethod(_no_vmap)


torch.library.register_vmap("bam_attention::attend", _no_vmap, lib=_LIBRARY)


_LIBRARY.define("visible_counts(Tensor? query_documents, Tensor? key_documents, SymInt queries, SymInt keys, "
                "bool causal, SymInt query_offset, SymInt? window) -> Tensor")


def visible_counts(
    queries: int,
    keys: int,
    *,
    causal: bool = True,
    query_offset: int = 0,
    window: int | None = None,
    documents=None,
) -> Tensor:
    """Keys that each row of such a call of `attend` sees, `[batch or 1, queries]`, in float32: the `n` of scalable
    softmax."""
    of_queries, of_keys = _documents(documents)
    return torch.ops.bam_attention.visible_counts(of_queries, of_keys, queries, keys, causal, query_offset, window)


def _visible_counts(of_queries, of_keys, queries, keys, causal, query_offset, window):
    rules = _rules(causal, query_offset, window, 0, "likelihood", "off", 1)
    batch = 1 if of_queries is None else of_queries.shape[0]
    return from_dlpack(_native.visible_counts(batch, queries, keys, _ids(of_queries, of_keys), rules))


_LIBRARY.impl("visible_counts", _visible_counts, "CompositeExplicitAutograd")


@torch.library.register_fake("bam_attention::visible_counts", lib=_LIBRARY)
def _(of_queries, of_keys, queries, *_rest):
    return torch.empty(1 if of_queries is None else of_queries.shape[0], queries)


_LIBRARY.define("ln_weights(Tensor[] theta, str family, SymInt first_lag, SymInt count, bool causal) -> Tensor")
_LIBRARY.define(
    "ln_weights_gradient(Tensor gradient, Tensor[] theta, str family, SymInt first_lag, SymInt count, bool causal) "
    "-> Tensor[]"
)


def ln_weights(theta, family, first_lag, count, causal) -> Tensor:
    """`ln w_h(d)` of a family, `[heads, count]`, from what its heads store, for each parameter `[heads, width]`."""
    return torch.ops.bam_attention.ln_weights(theta, family, first_lag, count, causal)


def _law(theta, family, first_lag, count, causal):
    capsules = [_numbers(of) for of in theta]
    return family, theta[0].shape[0], capsules, (first_lag, count), causal, torch.get_num_threads()


def _ln_weights(*law):
    return from_dlpack(_native.ln_weights(_law(*law)))


def _ln_weights_gradient(gradient, *law):
    return [from_dlpack(of) for of in _native.ln_weights_gradient(_numbers(gradient), _law(*law))]


_LIBRARY.impl("ln_weights", _ln_weights, "CPU")
_LIBRARY.impl("ln_weights_gradient", _ln_weights_gradient, "CPU")


@torch.library.register_fake("bam_attention::ln_weights", lib=_LIBRARY)
def _(theta, family, first_lag, count, causal):
    return torch.empty(theta[0].shape[0], count)


@torch.library.register_fake("bam_attention::ln_weights_gradient", lib=_LIBRARY)
def _(gradient, theta, *_rest):
    return [torch.empty(of.shape) for of in theta]


def _keep_theta(ctx, inputs, output):
    theta, *ctx.law = inputs
    ctx.save_for_backward(*theta)


def _back_to_theta(ctx, gradient):
    gradients = torch.ops.bam_attention.ln_weights_gradient(gradient, list(ctx.saved_tensors), *ctx.law)
    return gradients, None, None, None, None


torch.library.register_autograd(
    "bam_attention::ln_weights", _back_to_theta, setup_context=_keep_theta, lib=_LIBRARY
)
