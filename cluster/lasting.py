"""What a process holds for good is left out of garbage collection.

Vocabulary, modules and model are some hundred thousand objects. A full collection that looks at all of them stops every
thread of the process for more than a tenth of a second, again and again while requests come and go.
"""

import gc


def set_lasting_aside() -> None:
    """Take all objects that are there for lasting ones; what is made later is collected as ever.

    For processes that serve until they end, once they have loaded: what is garbage by then is collected first, and what
    becomes garbage of the rest in cycles is never freed.
    """
    gc.collect()
    gc.freeze()
