"""The seed's import name: `import MyNoSQL; MyNoSQL.MyNoSQL()`, and every other public name of mynosql."""
from mynosql import *  # noqa: F403
