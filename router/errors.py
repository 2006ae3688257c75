"""The errors of the router, and the one place where errors become answers.

RouterError
├── ConfigInvalid            the config document cannot be used
├── PlatformRefused          this machine or its set-up cannot run what was asked
└── RequestError             an answer to the client, with status and OpenAI's error fields
    ├── InvalidRequest       400
    ├── Unauthenticated      401
    ├── ModelNotFound        404
    ├── RequestTooLarge      413
    ├── Overloaded           429
    └── ServerFailure        500, 503
"""


class RouterError(Exception):
    """Anything the router may be asked that it cannot do."""


class ConfigInvalid(RouterError):
    """The config document cannot be used; the message names source, field and value."""


class PlatformRefused(RouterError):
    """This machine or its set-up cannot run what was asked; the message says what to do."""
