"""RoutedReplicas: the attention replicas that Serve routes to now, as it last told this process. Knows no Ray.

A replica that is to go leaves this set at once, long before it ends: that is how an edge learns of it.
"""

import threading
from collections.abc import Callable, Mapping

Listener = Callable[[Mapping[str, str]], None]
"""Takes the numerics fingerprint of each replica by the address of its token stream."""


class RoutedReplicas:
    """Passes on what Serve's router is told. Thread-safe."""

    def __init__(self) -> None:
        """Start without a word from Serve."""
        self._lock = threading.Lock()
        self._newest: Mapping[str, str] | None = None
        self._listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """Call `listener` with the newest set, if there is one, and with each that follows, from any thread."""
        with self._lock:
            self._listener = listener
            if self._newest is not None:
                listener(self._newest)

    def publish(self, replicas: Mapping[str, str]) -> None:
        """Take a set of replicas; the listener must only note it."""
        with self._lock:
            self._newest = replicas
            if self._listener is not None:
                self._listener(replicas)


ROUTED = RoutedReplicas()
"""Of this process: Serve makes the routers by itself, and nothing can be handed to them."""
