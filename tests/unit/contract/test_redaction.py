"""What a person pastes into a ticket holds no secret, and is not less useful than it must be."""

import pytest

from quantization_api.redaction import without_secrets

pytestmark = pytest.mark.unit

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "line",
    [
        f"http://user:{SECRET}@proxy.example:3128 refused",
        f"https://{SECRET}@git.example/models",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f'"secretAccessKey": "{SECRET}"',
        f"aws_session_token: {SECRET}",
        f"GET /models?X-Amz-Algorithm=A&X-Amz-Signature={SECRET}&x=1",
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}==",
        f"password={SECRET}",
        f"api-key: {SECRET}",
        f"token hf_{SECRET} is not valid",
        f"eyJhbGciOiJSUzI1NiJ9.{SECRET}.{SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
    ],
)
def test_what_looks_like_a_secret_is_hidden(line: str) -> None:
    shown = without_secrets(f"before {line}\nafter")
    assert SECRET not in shown
    assert "[hidden]" in shown
    assert shown.startswith("before ")


def test_an_access_key_id_is_hidden() -> None:
    assert without_secrets("the key AKIAIOSFODNN7EXAMPLE is not known") == "the key [hidden] is not known"


@pytest.mark.parametrize(
    "line",
    [
        "the tokenizer has 32000 tokens: 12 tokens a line",
        "credentialsSecret: {name: s3-credentials}",
        "http://s3.quantization-demo.svc:8333/models/stories15m",
        "sha256:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
        "max_tokens=4096",
        "the Secret s3 has no key AWS_SECRET_ACCESS_KEY",
        "basic blocks are folded",
    ],
)
def test_what_is_none_is_shown(line: str) -> None:
    assert without_secrets(line) == line
