"""Where a model, a text or tasks lie: which URIs and paths are taken."""

import re

from quantization_api.rules import Rule

PATH_PATTERN = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^/].*|file:///.+|/.+)$"


def path_rule(field: str, what: str, *, optional: bool = False) -> Rule:
    """A rule that a field is an s3:// URI with bucket and key, or an absolute path; hub ids come later."""
    sentence = (
        f"{field} must be s3://BUCKET/KEY, file:///PATH or an absolute path; downloads from a hub are not "
        f"available in this release: copy the {what} to S3 or to a mounted volume"
    )
    found = f"self.{field}.matches('{PATH_PATTERN}')"

    def holds(value: str | None) -> bool:
        return optional if value is None else re.match(PATH_PATTERN, value) is not None

    return Rule(
        cel=f"!has(self.{field}) || {found}" if optional else found,
        message=sentence,
        check=lambda model: None if holds(getattr(model, field)) else sentence,
        field=field,
    )
