"""The tokens of the issuers that settings name. What verifies them is an extra, and imported
only where there are some.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from keyrush.authentication.tokens.newcomers import Newcomers
from keyrush.core.issuers import Issuer
from keyrush.errors import ConfigurationError
from keyrush.runtime.circuit import Circuit
from keyrush.store.protocol import Store

if TYPE_CHECKING:
    from keyrush.authentication.tokens.tokens import Tokens


def open_tokens(
    issuers: Sequence[Issuer],
    store: Store,
    circuit: Circuit,
    newcomers: Newcomers,
    *,
    resources: Collection[str],
    environment: str | None,
    removed: Callable[[], object],
    monotonic: Callable[[], float],
) -> Tokens:
    """The authenticator of their tokens; nothing is fetched yet. `removed` is called when one of
    their keys is known no more.

    Raises:
        ConfigurationError: What verifies tokens is not installed.
    """
    try:
        from keyrush.authentication.tokens.issuer_keys import IssuerKeys  # noqa: PLC0415
        from keyrush.authentication.tokens.tokens import Tokens  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"KEYRUSH_ISSUERS: tokens need the module {error.name!r}; pip install 'keyrush[tokens]'"
        ) from error
    keys = {issuer: IssuerKeys(issuer, removed, monotonic) for issuer in issuers}
    return Tokens(
        issuers,
        keys,
        newcomers,
        store,
        circuit,
        resources=resources,
        environment=environment,
    )
