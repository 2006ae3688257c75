"""Set-up of a checkout: looks at the machine, makes `.venv`, installs the pinned set, runs a command in it.

Runs before anything is installed, so it uses the standard library only. `checks` judges the machine, `resolution`
judges what pip would install, `environment` acts; the command line is in `__main__`.
"""
