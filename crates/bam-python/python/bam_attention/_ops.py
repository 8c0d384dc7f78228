"""The operation as PyTorch's dispatcher knows it: `torch.ops.bam_attention.attend` and its backward pass."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import pad
from torch.utils.dlpack import to_dlpack

from . import _native
from . import _operation as operation

_LIBRARY = torch.library.Library("bam_attention", "DEF")
_RULES = (
    "bool causal, SymInt query_offset, SymInt? window, SymInt first_lag, str temperature_scope, str key_prior_scope, "
    "str skipping"
)
_OPERANDS = (
    "Tensor q, Tensor k, Tensor v, Tensor ln_weights, Tensor? temperature, Tensor? key_prior, Tensor? key_remainders, "
    "Tensor? query_documents, Tensor? key_documents"
)
_LIBRARY.define(f"attend({_OPERANDS}, {_RULES}) -> (Tensor, Tensor)")
_LIBRARY.define(
    f"attend_backward(Tensor gradient, Tensor out, Tensor ln_evidence, {_OPERANDS}, {_RULES}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_TYPES = (torch.float32, torch.bfloat16)
# Integers that 32 bits with a sign hold.
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16)
# The processor's best, unless a benchmark asks for others.
_INSTRUCTIONS: str | None = None
_PLAIN = (Tensor, torch.nn.Parameter, type(None))


def attend(
    q, k, v, log_prior, causal, query_offset, window, documents, temperature, temperature_scope, key_prior,
    key_prior_scope, skipping,
):
    """`bam_attention.attend` on tensors of PyTorch."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    q, k, v = _as_autocast(q, k, v)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dtype not in _TYPES or not _in_memory(x):
            raise TypeError(f"{name}: expected float32 or bfloat16 on the CPU, got {_kind(x)}")
        if x.dtype != q.dtype:
            raise TypeError(f"{name}: expected {_name(q.dtype)}, as q is, got {_name(x.dtype)}")
        if x.dim() != 4:
            raise ValueError(f"{name}: expected [batch, heads, tokens, dim], got {list(x.shape)}")
    width = q.shape[3]
    if width and 0 < v.shape[3] != width:
        # The kernel's values are as wide as its keys: columns of v apart, the last ones beside zeros.
        rest = (
            log_prior, causal, query_offset, window, documents, temperature, temperature_scope, key_prior,
            key_prior_scope, skipping,
        )
        parts = v.split(width, 3)
        outs = [attend(q, k, pad(part, (0, width - part.shape[3])), *rest)[..., : part.shape[3]] for part in parts]
        return torch.cat(outs, 3)
    prior = operation.prior_of(log_prior, "tensor", _is_tensor, q.shape[2], k.shape[2], causal, query_offset)
    ln_weights = _floats("log_prior", prior.ln_weights)
    if temperature is not None:
        temperature = _broadcast(_floats("temperature", temperature), q.shape[:3])
    high, low = (None, None) if key_prior is None else _pairs(key_prior, q.shape[0])
    of_queries, of_keys = _documents(documents)
    operands = (q, k, v, ln_weights, temperature, high, low)
    _refuse_tangents("attend", *operands)
    if _is_transformed():
        call = _Transformed.apply
    elif not _is_plain(*operands, of_queries, of_keys):
        call = torch.ops.bam_attention.attend
    elif torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in operands):
        call = _Attend.apply
    else:
        call = _attend
    out, _ = call(
        *operands, of_queries, of_keys, causal, query_offset, window, prior.first_lag, temperature_scope,
        key_prior_scope, operation.skipping_as_text(skipping),
    )
    return out.to(q.dtype)


def _as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors as autocast would give them to `scaled_dot_product_attention`."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    dtype = torch.get_autocast_dtype("cpu")
    if dtype not in _TYPES:
        raise TypeError(f"autocast: expected bfloat16, got {_name(dtype)}")
    return tuple(x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors)


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


def is_still(theta: list[Tensor]) -> bool:
    """Whether log-weights of these numbers are numbers and nothing else: no gradient, no graph, no transform."""
    return (
        not (torch.is_grad_enabled() and any(of.requires_grad for of in theta))
        and _is_plain(*theta)
        and forward_ad._current_level < 0
        and all(of.device.type == "cpu" for of in theta)
    )


def _is_transformed() -> bool:
    """Whether `torch.func` is at work, which the autograd of `torch.library` does not know."""
    return torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling()


def _refuse_tangents(what: str, *tensors) -> None:
    """Derivatives in forward mode would be lost without a word."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(f"bam_attention.{what}: expected derivatives in reverse mode, got forward mode")


def _refuse_second(ctx, *grad_outputs):
    raise NotImplementedError("bam_attention: expected first derivatives, got second ones")


def _refuse_batches(gradient: Tensor) -> None:
    """Several gradients as one, which have no memory."""
    if not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(gradient):
        raise NotImplementedError("bam_attention: expected one gradient at a time, got is_grads_batched=True")


def _no_jvp(ctx, *grad_inputs):
    raise NotImplementedError("bam_attention: expected derivatives in reverse mode, got forward mode")


def _is_tensor(x) -> bool:
    return isinstance(x, Tensor)


def _in_memory(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.layout is torch.strided and not x.is_nested


def _name(of) -> str:
    """A type's or a layout's name."""
    return str(of).removeprefix("torch.")


def _kind(x: Tensor) -> str:
    layout = "nested " if x.is_nested else "" if x.layout is torch.strided else f"{_name(x.layout)} "
    return f"{layout}{_name(x.dtype)} on {x.device}"


def _floats(name: str, x) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.dtype not in _TYPES or not _in_memory(x):
        raise TypeError(f"{name}: expected float32 or bfloat16 on the CPU, got {_kind(x)}")
    return x.float()


def _pairs(key_prior, batch) -> tuple[Tensor, Tensor | None]:
    """A prior over keys in float32, and what that leaves of float64; the gradient is that of the first."""
    if not isinstance(key_prior, Tensor):
        raise TypeError(f"key_prior: expected a tensor, got {type(key_prior).__name__}")
    if key_prior.dtype not in (torch.float32, torch.float64) or not _in_memory(key_prior):
        raise TypeError(f"key_prior: expected float32 or float64 on the CPU, got {_kind(key_prior)}")
    key_prior = key_prior.expand(operation.shape_over_keys(key_prior.shape, batch))
    high = key_prior.float()
    if key_prior.dtype is torch.float32:
        return high, None
    low = (key_prior.detach() - high.detach()).float()
    return high, torch.where(high.isinf(), 0.0, low)


def _documents(documents) -> tuple[Tensor | None, Tensor | None]:
    """Those of the queries and of the keys."""
    if documents is None:
        return None, None
    of_queries, of_keys = operation.pair_of_documents(documents)
    return _integers(of_queries), _integers(of_keys)


def _integers(ids) -> Tensor:
    if not isinstance(ids, Tensor):
        raise TypeError(f"documents: expected a tensor, got {type(ids).__name__}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or not _in_memory(ids):
        raise TypeError(f"documents: expected integers on the CPU, got {_kind(ids)}")
    if ids.dim() != 2:
        raise ValueError(f"documents: expected [batch, tokens], got {list(ids.shape)}")
    return ids


def _broadcast(temperature: Tensor, shape) -> Tensor:
    rows = shape[0] if temperature.dim() == 3 and temperature.shape[0] != 1 else 1
    try:
        return temperature.expand(rows, *shape[1:])
    except RuntimeError:
        raise ValueError(f"temperature: expected {list(shape)}, or less, got {list(temperature.shape)}") from None


def _in_rows(x: Tensor) -> bool:
    """Whether the numbers of a row lie side by side."""
    return x.shape[-1] <= 1 or x.stride(-1) == 1


def _lent(x: Tensor):
    """A tensor for the kernel to read; a copy where its memory does not hold its numbers: those whose sign is turned when
    they are read, and zeros that have no memory."""
    return to_dlpack(x.clone() if x.is_neg() or x._is_zerotensor() else x)


def _rows(x: Tensor):
    """Rows as the kernel reads them in place, else a copy."""
    return _lent(x if _in_rows(x) else x.contiguous())


def _like(x: Tensor) -> Tensor:
    """Memory for rows that are laid out as `x` is where that can be: what follows wants them so, as `transpose(1, 2)` of the
    output does, and the sum of a leaf's gradients."""
    made = torch.empty_like(x, dtype=torch.float32)
    return made if _in_rows(made) else torch.empty(x.shape, dtype=torch.float32, device=x.device)


def _numbers(x: Tensor | None):
    """Numbers one after the other, if there are some."""
    return None if x is None else _lent(x.contiguous())


def _ids(of_queries: Tensor | None, of_keys: Tensor | None):
    """Documents as the kernel takes them."""
    if of_queries is None or of_keys is None:
        return None
    queries = _as_int32(of_queries)
    return [_numbers(queries), _numbers(queries if of_keys is of_queries else _as_int32(of_keys))]


def _as_int32(ids: Tensor) -> Tensor:
    """Documents as the kernel counts them.

    Raises:
        ValueError: numbers of more bits, which would be others
    """
    narrow = ids.int()
    if ids.dtype in _INTEGERS:
        return narrow
    if not torch.equal(narrow.to(ids.dtype), ids) or not ids.dtype.is_signed and bool((narrow < 0).any()):
        raise ValueError("documents: expected numbers of 32 bits, got larger ones")
    return narrow


def _operands(q, k, v, ln_weights, temperature, key_prior, key_remainders, of_queries, of_keys, *rules):
    return (
        _rows(q),
        _rows(k),
        _rows(v),
        _numbers(ln_weights),
        _numbers(temperature),
        _numbers(key_prior),
        _numbers(key_remainders),
        _ids(of_queries, of_keys),
        _rules(*rules, torch.get_num_threads()),
    )


@functools.lru_cache(256, typed=True)
def _rules(
    causal, query_offset, window, first_lag, temperature_scope, key_prior_scope, skipping, threads
) -> _native.Rules:
    return _native.Rules(
        causal=causal,
        query_offset=query_offset,
        window=window,
        first_lag=first_lag,
        temperature_scope=temperature_scope,
        key_prior_scope=key_prior_scope,
        skipping=skipping,
        threads=threads,
        instructions=_INSTRUCTIONS,
    )


def _attend(q, *rest):
    out, ln_evidence = _like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    _native.forward(_operands(q, *rest), to_dlpack(out), to_dlpack(ln_evidence))
    return out, ln_evidence


def _attend_backward(gradient, out, ln_evidence, q, k, v, ln_weights, temperature, key_prior, *rest):
    operands = _operands(q, k, v, ln_weights, temperature, key_prior, *rest)
    of_rows = [_like(of) for of in (q, k, v)]
    of_ln_weights = ln_weights.new_empty(ln_weights.shape)
    of_temperature = ln_weights.new_empty(0 if temperature is None else temperature.shape)
    of_key_prior = ln_weights.new_empty(0 if key_prior is None else key_prior.shape)
    wanted = (
        *map(to_dlpack, of_rows),
        to_dlpack(of_ln_weights),
        None if temperature is None else to_dlpack(of_temperature),
        None if key_prior is None else to_dlpack(of_key_prior),
    )
    _native.backward(_rows(gradient), to_dlpack(out), to_dlpack(ln_evidence), operands, wanted)
    return (*(d.to(q.dtype) for d in of_rows), of_ln_weights, of_temperature, of_key_prior)


_LIBRARY.impl("attend", _attend, "CPU")
_LIBRARY.impl("attend_backward", _attend_backward, "CPU")


@torch.library.register_fake("bam_attention::attend", lib=_LIBRARY)
def _(q, *_rest):
    return _like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.register_fake("bam_attention::attend_backward", lib=_LIBRARY)
def _(gradient, out, ln_evidence, q, k, v, ln_weights, temperature, key_prior, *_rest):
    like = [_like(of).to(of.dtype) for of in (q, k, v)]
    rest = [ln_weights.new_empty(0 if of is None else of.shape) for of in (temperature, key_prior)]
    return (*like, ln_weights.new_empty(ln_weights.shape), *rest)


def _keep(ctx, inputs, output):
    tensors, ctx.rules = inputs[:9], inputs[9:]
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _back(ctx, *of_outputs):
    gradient, _of_evidence = of_outputs
    *tensors, out, ln_evidence = map(_alive, ctx.saved_tensors)
    nothing = (None,) * len(ctx.rules)
    if gradient is None:
        return (None,) * 9 + nothing
    _refuse_batches(gradient)
    arguments = (gradient, out, ln_evidence, *tensors, *ctx.rules)
    plain = _is_plain(gradient, *tensors[:4])
    if _is_transformed() or plain and torch.is_grad_enabled():
        gradients = _Once.apply(_attend_backward, *arguments)
    else:
        gradients = (_attend_backward if plain else torch.ops.bam_attention.attend_backward)(*arguments)
    *gradients, of_temperature, of_key_prior = gradients
    of_rows = None if tensors[4] is None else of_temperature
    of_keys = None if tensors[5] is None else of_key_prior
    return (*gradients, of_rows, of_keys, None, None, None) + nothing


def _alive(x):
    """A tensor that `torch.func` wrapped and is done with, as it is."""
    return x if x is None or torch.compiler.is_compiling() else torch._C._functorch.unwrap_if_dead(x)


def _keep_nothing(ctx, inputs, output):
    """A setup of what has no derivative."""


torch.library.register_autograd("bam_attention::attend", _back, setup_context=_keep, lib=_LIBRARY)
torch.library.register_autograd("bam_attention::attend_backward", _refuse_second, lib=_LIBRARY)


class _Attend(torch.autograd.Function):
    """The same step of the graph without the dispatcher."""

    @staticmethod
    def forward(ctx, *arguments):
        output = _attend(*arguments)
        _keep(ctx, arguments, output)
        return output

    backward = staticmethod(_back)


class _Once(torch.autograd.Function):
    """Gradients, `function(*arguments)`, where their own might be asked for: there are none."""

    @staticmethod
    def forward(function, *arguments):
        return tuple(function(*arguments))

    setup_context = staticmethod(_keep_nothing)
    backward = staticmethod(_refuse_second)
    jvp = staticmethod(_no_jvp)

    @staticmethod
    def vmap(info, in_dims, function, *arguments):
        def at(index):
            axes = zip(arguments, in_dims[1:])
            return [x if axis is None else x.select(axis, index) for x, axis in axes]

        each = [_Once.apply(function, *at(index)) for index in range(info.batch_size)]
        return tuple(torch.stack(of) for of in zip(*each)), (0,) * len(each[0])


def _no_vmap(_info, _in_dims, *_arguments):
    raise NotImplementedError("bam_attention.attend under torch.func.vmap: fold that axis into the batch instead")


class _Transformed(torch.autograd.Function):
    """The same for `torch.func`, which the autograd of `torch.library` does not know."""

    @staticmethod
    def forward(*arguments):
        return _attend(*arguments)

    setup_context = staticmethod(_keep)
    backward = staticmethod(_back)
    jvp = staticmethod(_no_jvp)
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
    queries, keys = operation.whole("queries", queries, 1), operation.whole("keys", keys, 1)
    query_offset = operation.whole("query_offset", query_offset)
    window = operation.window_of(window)
    of_queries, of_keys = _documents(documents)
    return torch.ops.bam_attention.visible_counts(of_queries, of_keys, queries, keys, causal, query_offset, window)


def _visible_counts(of_queries, of_keys, queries, keys, causal, query_offset, window):
    rules = _rules(causal, query_offset, window, 0, "likelihood", "added", "off", 1)
    batch = 1 if of_queries is None else of_queries.shape[0]
    out = torch.empty(batch, queries, dtype=torch.float32, device="cpu")
    _native.visible_counts(batch, queries, keys, _ids(of_queries, of_keys), rules, to_dlpack(out))
    return out


_LIBRARY.impl("visible_counts", _visible_counts, "CompositeExplicitAutograd")


@torch.library.register_fake("bam_attention::visible_counts", lib=_LIBRARY)
def _(of_queries, of_keys, queries, *_rest):
    return torch.empty(1 if of_queries is None else of_queries.shape[0], queries, dtype=torch.float32, device="cpu")


_LIBRARY.define("ln_weights(Tensor[] theta, str family, SymInt first_lag, SymInt count, bool causal) -> Tensor")
_LIBRARY.define(
    "ln_weights_gradient(Tensor gradient, Tensor[] theta, str family, SymInt first_lag, SymInt count, bool causal) "
    "-> Tensor[]"
)


def ln_weights(theta, family, first_lag, count, causal) -> Tensor:
    """`ln w_h(d)` of a family, `[heads, count]`, from what its heads store, for each parameter `[heads, width]`."""
    _refuse_tangents("ln_weights", *theta)
    if _is_transformed():
        return _TransformedLaw.apply(family, first_lag, count, causal, *theta)
    return torch.ops.bam_attention.ln_weights(theta, family, first_lag, count, causal)


def _law(theta, family, first_lag, count, causal):
    capsules = [_numbers(of) for of in theta]
    return family, theta[0].shape[0], capsules, (first_lag, count), causal, torch.get_num_threads()


def _ln_weights(theta, family, first_lag, count, causal):
    out = theta[0].new_empty(theta[0].shape[0], count)
    _native.ln_weights(_law(theta, family, first_lag, count, causal), to_dlpack(out))
    return out


def _ln_weights_gradient(gradient, theta, *law):
    out = [of.new_empty(of.shape) for of in theta]
    _native.ln_weights_gradient(_numbers(gradient), _law(theta, *law), [to_dlpack(of) for of in out])
    return out


_LIBRARY.impl("ln_weights", _ln_weights, "CPU")
_LIBRARY.impl("ln_weights_gradient", _ln_weights_gradient, "CPU")


@torch.library.register_fake("bam_attention::ln_weights", lib=_LIBRARY)
def _(theta, family, first_lag, count, causal):
    return theta[0].new_empty(theta[0].shape[0], count)


@torch.library.register_fake("bam_attention::ln_weights_gradient", lib=_LIBRARY)
def _(gradient, theta, *_rest):
    return [torch.empty_like(of) for of in theta]


def _keep_theta(ctx, inputs, output):
    theta, *ctx.law = inputs
    ctx.save_for_backward(*theta)


def _back_to_theta(ctx, gradient):
    _refuse_batches(gradient)
    gradients = torch.ops.bam_attention.ln_weights_gradient(gradient, list(ctx.saved_tensors), *ctx.law)
    return gradients, None, None, None, None


torch.library.register_autograd(
    "bam_attention::ln_weights", _back_to_theta, setup_context=_keep_theta, lib=_LIBRARY
)
torch.library.register_autograd("bam_attention::ln_weights_gradient", _refuse_second, lib=_LIBRARY)


class _TransformedLaw(torch.autograd.Function):
    """The same for `torch.func`."""

    jvp = staticmethod(_no_jvp)

    @staticmethod
    def forward(*law_and_theta):
        return _ln_weights(law_and_theta[4:], *law_and_theta[:4])

    @staticmethod
    def setup_context(ctx, inputs, output):
        _keep_theta(ctx, (inputs[4:], *inputs[:4]), output)

    @staticmethod
    def backward(ctx, *of_output):
        def gradients(gradient, *theta):
            return _ln_weights_gradient(gradient, theta, *ctx.law)

        return None, None, None, None, *_Once.apply(gradients, *of_output, *map(_alive, ctx.saved_tensors))

    @staticmethod
    def vmap(_info, _in_dims, *_arguments):
        raise NotImplementedError("a prior under torch.func.vmap: expected the same parameters in all of its rows")
