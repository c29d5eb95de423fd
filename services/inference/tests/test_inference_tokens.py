"""Tokens of an issuer: every way in which one is not valid, keys that change, an issuer that is away."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from readmit_chassis.access.client import Limit
from readmit_chassis.access.watched_file import Unusable
from readmit_inference.access import tokens as tokens_module
from readmit_inference.access.tokens import Tokens, fetch_jwks, follow_issuer, is_private
from readmit_inference.errors import IssuerUnavailable
from readmit_inference.testing import until

ISSUER = "https://login.example.org/realm"
NOW_S = 1_800_000_000
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa"})
Key = RSAKey | ECKey


class Clock:
    now_s = float(NOW_S)

    def __call__(self) -> float:
        return self.now_s


def jwks(*keys: Key) -> bytes:
    return json.dumps(KeySet(list(keys)).as_dict(private=False)).encode()


def token(key: Key = RSA, alg: str = "RS256", kid: str | None = None, **changed: Any) -> bytes:
    claims: dict[str, Any] = {
        "iss": ISSUER, "aud": "readmit", "sub": "ehr", "exp": NOW_S + 300, "nbf": NOW_S, "scope": "openid predict",
    }  # fmt: skip
    claims = {name: value for name, value in (claims | changed).items() if value is not None}
    return jwt.encode({"alg": alg, "kid": kid or key.kid}, claims, key, algorithms=[alg]).encode()


def known(clock: Clock | None = None, *keys: Key) -> Tokens:
    made = Tokens(ISSUER, "readmit", Limit(3, 4), now=clock or Clock())
    made.use(jwks(*(keys or (RSA, EC))))
    return made


@pytest.mark.parametrize(("key", "alg"), [(RSA, "RS256"), (EC, "ES256")])
def test_a_token_says_who_asks_and_what_they_may(key: Key, alg: str) -> None:
    client = known().client_of(token(key, alg))
    assert client is not None
    assert (client.name, client.label, client.limit) == ("token:ehr", "oidc", Limit(3, 4))
    assert client.scopes == {"openid", "predict"}


def test_headers_that_are_not_known_are_ignored() -> None:
    assert known().client_of(signed_by_hand(x5t="abc", something=1)) is not None


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": None}, set()),
        ({"scope": None, "scp": "predict model"}, {"predict", "model"}),
        ({"scope": None, "scp": ["predict", 7]}, {"predict"}),
        ({"scope": {"predict": True}}, set()),
    ],
)
def test_scopes_are_read_as_issuers_write_them(claims: dict[str, Any], scopes: set[str]) -> None:
    client = known().client_of(token(**claims))
    assert client is not None
    assert client.scopes == scopes


def unsigned(alg: str, **header: Any) -> bytes:
    claims = json.loads(base64.urlsafe_b64decode(token().split(b".")[1] + b"=="))
    parts = ({"alg": alg, "kid": "rsa"} | header, claims)
    return b".".join(encoded(json.dumps(part).encode()) for part in parts)


def encoded(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def signed_with_the_public_key() -> bytes:
    content = unsigned("HS256")
    return content + b"." + encoded(hmac.digest(RSA.as_pem(private=False), content, "sha256"))


def signed_by_hand(**header: Any) -> bytes:
    """What the library would not write."""
    content = unsigned("RS256", **header)
    return content + b"." + encoded(RSA.private_key.sign(content, PKCS1v15(), SHA256()))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(token(STRANGER), id="signed by another key of the same name"),
        pytest.param(token()[:-6] + b"AAAAAA", id="signature altered"),
        pytest.param(unsigned("none") + b".", id="alg none"),
        pytest.param(unsigned("RS256") + b".", id="no signature"),
        pytest.param(signed_with_the_public_key(), id="public key as a secret"),
        pytest.param(token(RSA, "RS384"), id="another algorithm"),
        pytest.param(token(RSA, "PS256"), id="another padding"),
        pytest.param(token(EC, "ES256", "rsa"), id="the kind of key does not fit"),
        pytest.param(signed_by_hand(crit=["x"], x=1), id="a critical header that is not understood"),
        pytest.param(token(exp=NOW_S - 30), id="expired"),
        pytest.param(token(exp=None), id="never expires"),
        pytest.param(token(exp="tomorrow"), id="exp is no number"),
        pytest.param(token(nbf=NOW_S + 31), id="not valid yet"),
        pytest.param(token(aud="billing"), id="for somebody else"),
        pytest.param(token(aud=None), id="for nobody"),
        pytest.param(token(iss="https://login.example.org"), id="another issuer"),
        pytest.param(token(iss=None), id="no issuer"),
        pytest.param(token(sub=None), id="of nobody"),
    ],
)
def test_a_token_that_is_not_valid_is_nobodys(wrong: bytes) -> None:
    assert known().client_of(wrong) is None


@pytest.mark.parametrize("right", [token(exp=NOW_S - 29), token(nbf=NOW_S + 30), token(aud=["billing", "readmit"])])
def test_clocks_may_differ_by_half_a_minute_and_a_token_may_be_for_several(right: bytes) -> None:
    assert known().client_of(right) is not None


@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda text: token()[:20] + text.encode() + b".e30.e30"))
def test_whatever_is_sent_is_nobodys_and_no_error(credential: bytes) -> None:
    assert CHECKED.client_of(credential) is None


CHECKED = known()


def test_a_verified_token_is_remembered_until_it_expires() -> None:
    clock = Clock()
    checked = known(clock)
    first = checked.client_of(token_once := token())
    assert checked.client_of(token_once) is first, "not verified again"
    clock.now_s = NOW_S + 329
    assert checked.client_of(token_once) is first
    clock.now_s = NOW_S + 330
    assert checked.client_of(token_once) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "_REMEMBERED", 5)
    checked = known()
    for k in range(20):
        assert checked.client_of(token(EC, "ES256", sub=f"s{k}")) is not None
        assert len(checked._verified) <= 5


def test_a_key_that_is_withdrawn_is_trusted_no_longer_not_even_for_what_is_remembered() -> None:
    checked = known()
    assert checked.client_of(sent := token()) is not None
    checked.use(jwks(EC))
    assert checked.client_of(sent) is None
    assert checked.unknown_key.is_set(), "so that the issuer is asked for newer keys"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"keys": 3}', b'{"keys": [{"kty": "oct", "k": "AAAA"}]}', b'{"keys": [{"kty": "RSA"}]}']
)
def test_keys_that_are_none_are_refused_and_those_before_stay(content: bytes) -> None:
    checked = known()
    with pytest.raises(Unusable):
        checked.use(content)
    assert checked.client_of(token()) is not None


def test_before_any_keys_are_here_a_token_is_not_called_wrong() -> None:
    with pytest.raises(IssuerUnavailable):
        Tokens(ISSUER, "readmit").client_of(token())


class FakeIssuer:
    """Discovery and keys as an issuer answers them; `away` makes it fail."""

    def __init__(self, *keys: Key, issuer: str = ISSUER, jwks_uri: str = f"{ISSUER}/keys") -> None:
        self.keys, self.away, self.asked = keys, False, 0
        self._discovery = {"issuer": issuer, "jwks_uri": jwks_uri}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("away", request=request)
        if request.url.path.endswith("/.well-known/openid-configuration"):
            return httpx.Response(200, json=self._discovery)
        self.asked += 1
        return httpx.Response(200, content=jwks(*self.keys))


async def test_new_keys_of_the_issuer_are_fetched_when_a_token_needs_them_and_an_outage_keeps_the_old_ones() -> None:
    issuer = FakeIssuer(RSA)
    checked = Tokens(ISSUER, "readmit", now=Clock())
    following = asyncio.create_task(follow_issuer(checked, ISSUER, httpx.MockTransport(issuer), soonest_s=0.01))
    await until(lambda: issuer.asked == 1 and valid(checked, token()))
    issuer.away = True
    assert not valid(checked, token(EC, "ES256"))
    await asyncio.sleep(0.1)
    assert valid(checked, token())
    issuer.away, issuer.keys = False, (RSA, EC)
    await until(lambda: valid(checked, token(EC, "ES256")))
    assert valid(checked, token())
    following.cancel()


def valid(checked: Tokens, sent: bytes) -> bool:
    try:
        return checked.client_of(sent) is not None
    except IssuerUnavailable:
        return False


@pytest.mark.parametrize(
    "answers",
    [
        FakeIssuer(RSA, issuer="https://elsewhere.example.org"),
        FakeIssuer(RSA, jwks_uri="http://login.example.org/keys"),
        lambda _: httpx.Response(503),
        lambda _: httpx.Response(302, headers={"location": "http://elsewhere.example.org"}),
        lambda _: httpx.Response(200, text="<html>"),
        lambda _: httpx.Response(200, json=["issuer"]),
    ],
)
async def test_an_issuer_that_answers_something_else_is_not_believed(
    answers: Callable[[httpx.Request], httpx.Response],
) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(answers)) as http:
        with pytest.raises(Unusable):
            await fetch_jwks(http, ISSUER)


def test_keys_come_over_https_or_from_this_machine() -> None:
    assert is_private("https://login.example.org/keys")
    assert is_private("http://127.0.0.1:8080/keys")
    assert not is_private("http://login.example.org/keys")
    assert not is_private("file:///etc/keys")
