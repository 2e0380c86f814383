"""What a gate is made of, by its settings."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from keyrush.authentication.keyring import Fingerprints, Hashing, Keyring
from keyrush.core.calls import CallPolicy
from keyrush.core.catalog import Catalog
from keyrush.core.key_text import KeyFormat
from keyrush.core.policy import Policy
from keyrush.settings.settings import Settings
from keyrush.store.opening import Opened
from keyrush.wire.request import FORWARDED_FOR, REQUEST_ID, USER_AGENT
from keyrush.wire.resource_metadata import ResourceMetadata


def policies_of(
    settings: Settings, catalog: Catalog, metadata: ResourceMetadata
) -> tuple[Policy, CallPolicy]:
    """What paths need, and what the messages to resources do."""
    root_path, resources = settings.root_path, catalog.resources
    policy = Policy(
        (*settings.public_paths, *metadata.paths),
        catalog.rules,
        optional_paths=settings.optional_paths,
        modules=catalog.modules,
        gated="module_not_in_plan" if settings.gated_status == "403" else "gated_feature",
        unruled=settings.unruled,
        root_path=root_path,
        resources=resources,
    )
    plain = Policy((), catalog.rules, unruled=settings.unruled, root_path=root_path)
    return policy, CallPolicy(catalog.rules, resources, plain, root_path)


def environment_of(environments: Sequence[str], unmetered: Collection[str]) -> str | None:
    """The environment of those who come without a key: a person is no sandbox, where there is
    anything else.
    """
    metered = [name for name in environments if name not in unmetered]
    return next(iter(metered or environments), None)


def looking_up_in(store: Opened) -> int:
    """How many threads look up in a database: one in a file, where nothing is waited for, a few
    on a server, which is as far away as the network is slow.
    """
    return 1 if store.database is None or store.database.file else 4


def noted_headers(settings: Settings) -> list[bytes]:
    """The request headers that are noted beside those that may hold a key."""
    names = [REQUEST_ID]
    is_active = settings.activity != "off"
    if is_active:
        names.append(USER_AGENT)
    if settings.networks and (
        settings.by_address or (is_active and settings.activity_address != "off")
    ):
        names.append(FORWARDED_FOR)
    return names


def keyring_of(settings: Settings, peppers: Sequence[bytes]) -> Keyring:
    """What keys are made and known with."""
    hashing = Hashing(
        settings.argon2_time_cost, settings.argon2_memory_cost, settings.argon2_parallelism
    )
    return Keyring(
        KeyFormat(settings.key_prefix, settings.key_environments),
        Fingerprints(peppers),
        None if settings.verify == "fingerprint" else hashing,
    )
