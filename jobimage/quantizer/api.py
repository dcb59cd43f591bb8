"""`quantizer.quantize`: a model in one call, for scripts and notebooks."""

from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path

from quantizer.cli.execution import Here, execute
from quantizer.cli.manifest_file import request_of
from quantizer.cli.short import manifest_for
from quantizer.cli.short_form import ShortForm
from quantizer.progress.tracker import Tracker
from quantizer.run.workflow import Outcome
from quantizer.store.interface import never_stop

Place = str | PathLike[str]
"""s3://BUCKET/PREFIX, file:///PATH or a path."""


def quantize(
    model: Place,
    output: Place,
    *,
    bits: int = 4,
    method: str | None = None,
    group_size: int | None = None,
    data: Place | None = None,
    evaluate: Place | None = None,
    endpoint: str | None = None,
    region: str | None = None,
    patience: int | None = None,
    device: str = "auto",
    scratch: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Quantizes a model as `quantizer quantize` does, and publishes the artifact at `output`.

    What was computed before is not computed again: an artifact of the same recipe is returned as it is, and an
    unfinished run is resumed.

    Args:
        model: the model, as from_pretrained loads it.
        output: where the artifact goes.
        bits: of a weight.
        method: gptq, awq, quarot or rtn; by default gptq with `data`, else rtn.
        group_size: weights that share a scale; by default the largest up to 128 that fits the model.
        data: text to calibrate with. evaluate: held-out text to measure the result on.
        endpoint, region: of the S3 server; credentials come from the environment.
        patience: how many seconds to wait for a storage that does not answer; by default 300.
        device: auto, cpu or cuda. scratch: directory for temporary files.
        say: called with each line that says how it goes.

    Returns:
        The result (where the artifact lies, and its metrics) and the manifest, with everything that is known of it.

    Raises:
        QuantizationError: with its category, what went wrong, and in `hint_here` what to change.
    """
    form = ShortForm(
        fspath(model),
        fspath(output),
        method=method,
        bits=bits,
        group_size=group_size,
        data=None if data is None else fspath(data),
        evaluate=None if evaluate is None else fspath(evaluate),
        endpoint=endpoint,
        region=region,
        patience=patience,
    )
    request = request_of(manifest_for(form))
    return execute(request, Here(device, scratch), Tracker(say=lambda line: say(line.text)), never_stop)
