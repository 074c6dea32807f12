"""Matrix products of activations with weights."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator, Part
from windtunnel.specs.fields import DTYPE_BYTES, Dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Matmul(Operator):
    """(m, k) activations times (k, n) weights, `batch` such products in one kernel.

    Attributes:
        m: rows, tokens as a rule.
        n: columns of the weights on this rank.
        k: rows of the weights on this rank.
        batch: products in the kernel (one per head in absorbed latent attention).
        weight_dtype: format of the stored weights.
        compute_dtype: format in which the matrix units multiply.
        apart: columns of the products that an engine without fused weights runs one by one (q, k and v; gate and up);
            empty for a single product.
        per_row: priced at the rate of a large product, so that cost is a line in m. For products
            whose rows are not the step's tokens (context of a chunked latent prefill).
    """

    m: Number
    n: int
    k: int
    batch: int = 1
    weight_dtype: Dtype = "bf16"
    compute_dtype: Dtype = "bf16"
    apart: tuple[int, ...] = ()
    per_row: bool = False


def matmul(
    name: str,
    part: Part,
    count: float,
    m: Number,
    n: int,
    k: int,
    weight_dtype: Dtype = "bf16",
    compute_dtype: Dtype = "bf16",
    *,
    batch: int = 1,
    apart: tuple[int, ...] = (),
    per_row: bool = False,
) -> Matmul:
    """The product with its work: 2 m n k FLOPs, the weights read once, activations in and out."""
    weights = batch * n * k * DTYPE_BYTES[weight_dtype]
    return Matmul(
        name=name,
        part=part,
        count=count,
        flops=2.0 * batch * n * k * m,
        stored_bytes=weights,
        read_bytes=weights + batch * k * ACTIVATION_BYTES * m,
        write_bytes=batch * n * ACTIVATION_BYTES * m,
        m=m,
        n=n,
        k=k,
        batch=batch,
        weight_dtype=weight_dtype,
        compute_dtype=compute_dtype,
        apart=apart,
        per_row=per_row,
    )
