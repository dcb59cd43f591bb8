"""QuaRot (arXiv 2404.00456), one decoder layer at a time; the streaming loop calls it in this order:

    run = QuarotPass(parameters, layout)
    embedding, position tables     run.table_rows(rows)             slices of rows, as they are read
    each layer
        weights = run.rotate_layer(index, weights)                  an ordinary layer of the architecture
        each stage (linears that share an input)
            H of the stage's input in that ordinary layer           no online operation anywhere
            results = run.round_stage(names, weights, H)
            write results[name].stored / .rounded
            put results[name].propagated into the ordinary layer    the next stage sees rounded weights
    final norm                     run.final_norm(weight, bias)
    head                           run.head_rows(rows, weight)

Where a linear's input is rotated online by R, its Hessian is R' H R, the rounded weight approximates W R,
and what is propagated is the rounded weight times R'. Calibration sees rounded weights but neither
rounded activations nor a rounded cache, as in the paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.finite import all_finite
from quantizer.algorithms.hessian import weighted_square
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.algorithms.quarot.kernel_rotation import KernelRotation
from quantizer.algorithms.quarot.parameters import FULL, QuarotParameters, online_sites
from quantizer.algorithms.quarot.rotation import (
    MeanPreserving,
    Orthogonal,
    Turned,
    folded_bias,
    fuse_norm,
    neutral_weight,
    norm_weight,
    restore_input,
    rotate_hessian,
    rotate_input,
    rotate_stream,
    rotate_values,
)
from quantizer.algorithms.quarot.rotation_layout import LayerLayout, ModelLayout
from quantizer.algorithms.quarot.weights import nearest, round_weights
from quantizer.algorithms.stored_scales import check_scales

SCALES_OF_FEW_BITS = "Write s_bits: 8; such scales have a unit in float32."


@dataclass(frozen=True)
class StageResult:
    """A linear of a stage."""

    stored: Tensor | None
    """The weight [N, K] that is stored when weights are not rounded (it reads the rotated input)."""
    quantized: QuantizedWeight | None
    """The quantized weight otherwise."""
    propagated: Tensor
    """The weight [N, K] float32 of the ordinary layer that computes the same."""
    error: float | None = None
    """tr(E H E') / tr(W H W'); None without a Hessian."""
    error_rtn: float | None = None
    """The same of RTN."""
    damp_percent: float = 0.0
    """The damping that was used."""


class QuarotPass:
    """The rotations of a model, which check_model has accepted, and what they do to its tensors."""

    def __init__(self, parameters: QuarotParameters, layout: ModelLayout) -> None:
        self.parameters, self.layout = parameters, layout
        self._residual: Orthogonal | None = None
        if parameters.rotate:
            seed = f"{parameters.rotation_seed}:residual"
            kind = MeanPreserving if layout.mean_preserving else KernelRotation
            self._residual = kind(layout.width, seed)
        site = layout.layer.attention
        self._online: dict[str, Orthogonal] = {}
        if "heads" in self.sites and site is not None:
            inputs = site.heads * site.head_dim
            self._online[site.output] = KernelRotation(inputs, self.sites["heads"], site.head_dim)
        if "down" in self.sites and layout.layer.down is not None:
            self._online[layout.layer.down] = KernelRotation(layout.layer.down_width, self.sites["down"])

    @property
    def sites(self) -> dict[str, str]:
        """Online rotations: site (keys, heads, down) to seed, as config.json names them."""
        return {site: f"{self.parameters.rotation_seed}:{site}" for site in online_sites(self.parameters)}

    def restored(self, name: str, weight: Tensor) -> Tensor:
        """What a stored weight [N, K] of linear `name` does in the ordinary layer, where nothing is rotated online."""
        online = self._online.get(name)
        return weight if online is None else restore_input(weight.float(), online)

    @property
    def unties(self) -> bool:
        """Whether the result needs a head of its own: the final norm's weight is folded into the head only."""
        return self.layout.tied and self._residual is not None

    @property
    def turns_stream(self) -> bool:
        """Whether the residual stream is rotated (R1)."""
        return self._residual is not None

    def turned_back(self, rows: Tensor) -> Tensor:
        """Rows [..., width] of the residual stream before the rotation, in float32."""
        return rows.float() if self._residual is None else self._residual.apply_transposed(rows.float())

    def table_rows(self, rows: Tensor) -> Tensor:
        """Rows [..., width] of an embedding, or hidden states before the first layer, in float32."""
        return (rows if self._residual is None else self._residual.apply(rows.double())).float()

    def head_rows(self, rows: Tensor, norm: Tensor | None) -> Tensor:
        """Rows [n, width] of what reads the final norm, in float32; norm: its stored weight, if it has one."""
        if self._residual is None:
            return rows.float()
        scale = 1.0 if norm is None else norm_weight(self.layout.final_norm.kind, norm)
        return self._residual.apply(rows.double() * scale).float()

    def final_norm(self, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the final norm, in float32."""
        norm = self.layout.final_norm
        if self._residual is None:
            return weight.float(), None if bias is None else bias.float()
        if bias is not None:
            kept = folded_bias(norm.name, norm_weight(norm.kind, weight), bias)
            bias = self._residual.apply(kept).float()
        return neutral_weight(norm.kind, weight.float()), bias

    def rotate_layer(
        self, index: int, weights: Mapping[str, Tensor], layout: LayerLayout | None = None
    ) -> dict[str, Tensor]:
        """The offline part (norms, R1, R2) on layer `index`: tensors by their names in the layer, float32.

        One of them at a time is computed in float64.

        layout: of this layer where layers differ (experts in some); by default the model's.

        Raises:
            QuantizationError: NumericalFailure naming a tensor that is not finite; ModelUnsupported for a
                norm that cannot be folded.
        """
        turned, layer = Turned(weights), layout or self.layout.layer
        if self._residual is not None:
            for norm in layer.norms:
                fuse_norm(turned, norm)
            rotate_stream(turned, layer, self._residual)
        if self.parameters.rotate and (site := layer.attention) is not None:
            seed = f"{self.parameters.rotation_seed}:values:{index}"
            rotate_values(turned, site, KernelRotation(site.head_dim, seed))
        result: dict[str, Tensor] = {}
        for name in weights:
            result[name] = turned[name].float().contiguous()
            if not all_finite(result[name]):
                raise QuantizationError(
                    Category.NUMERICAL_FAILURE, f"layer {index}: {name} is not finite after the rotation"
                )
        return result

    def round_stage(
        self, names: Sequence[str], weights: Mapping[str, Tensor], hessian: Tensor | None
    ) -> dict[str, StageResult]:
        """Rounds linears that share an input.

        Args:
            names: of the linears, in the layer.
            weights: of rotate_layer, "<name>.weight" [N, K].
            hessian: H [K, K] of their input in the ordinary layer; without it weights are rounded to nearest.
        """
        online = self._online.get(names[0])
        if any(self._online.get(name) is not online for name in names):
            raise ValueError(f"{names} do not share an input")
        plain = [weights[f"{name}.weight"].float() for name in names]
        parts = plain if online is None else [rotate_input(part, online) for part in plain]
        if self.parameters.w_bits == FULL:
            return {
                name: StageResult(stored, None, kept)
                for name, stored, kept in zip(names, parts, plain, strict=True)
            }
        turned = hessian if hessian is None or online is None else rotate_hessian(hessian, online)
        results: dict[str, StageResult] = {}
        rule = self.parameters.weight_rule
        quantized, damp_percent = round_weights(
            parts, turned, rule if turned is not None else replace(rule, method="rtn")
        )
        for name, part, found in zip(names, parts, quantized, strict=True):
            seen = found.dequantized()
            check_scales(name, part, found.scales, self._nearest, SCALES_OF_FEW_BITS)
            back = seen if online is None else restore_input(seen, online)
            results[name] = StageResult(None, found, back, *self._errors(part, seen, turned), damp_percent)
        return results

    def _nearest(self, weight: Tensor) -> Tensor:
        return nearest(weight, self.parameters.weight_rule).dequantized()

    def _errors(
        self, weight: Tensor, seen: Tensor, hessian: Tensor | None
    ) -> tuple[float | None, float | None]:
        if hessian is None:
            return None, None
        rtn = self._nearest(weight)
        whole = float(weighted_square(weight, hessian).sum())
        if whole <= 0:  # a weight that is zero everywhere is exact
            return 0.0, 0.0
        ours, theirs = (float(weighted_square(weight - x, hessian).sum()) / whole for x in (seen, rtn))
        return ours, theirs
