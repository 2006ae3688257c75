"""The errors of fetching a model.

FetchError (a RouterError)
├── ModelNameRefused      the name is none that a hub could hold
├── ModelUnavailable      the hub has no such model or revision, or does not give it to this user
├── HubUnreachable        no answer, or one that broke off more often than we try again
├── FetchedDamaged        what arrived is not what the hub announced, or is no gpt-oss checkpoint
├── DiskTooSmall          the files would not fit
├── FetchInProgress       another process is fetching the same model
└── ModelNotFetched       there is nothing to remove
"""

from router.errors import RouterError


class FetchError(RouterError):
    """A model could not be fetched, or removed; the message says what to do."""


class ModelNameRefused(FetchError):
    """The name is none that a hub could hold."""


class ModelUnavailable(FetchError):
    """The hub has no such model or revision, or does not give it to this user."""


class HubUnreachable(FetchError):
    """The hub did not answer, or broke off more often than we try again."""


class FetchedDamaged(FetchError):
    """What arrived is not what the hub announced, or is no gpt-oss checkpoint."""


class DiskTooSmall(FetchError):
    """The files would not fit on the disk of the cache."""


class FetchInProgress(FetchError):
    """Another process is fetching the same model."""


class ModelNotFetched(FetchError):
    """There is no such model in the cache."""
