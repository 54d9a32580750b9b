"""The jobs that studies are made of: a corpus of puppets, and trainings on it."""

import dataclasses
import pathlib
from collections.abc import Mapping

from tfg_jax.claims.jobs import Job

CORPUS = 'puppets'  # the job, and its folder


@dataclasses.dataclass(frozen=True)
class Trainings:
  """Makes jobs. The folder of each is in `workdir`, by its name; `seed` is that of most."""

  workdir: pathlib.Path
  seed: int

  def corpus(self, settings: Mapping[str, object]) -> Job:
    """Makes puppets; `settings` are flags of `data_prep.puppet`."""
    settings = {'output': self.workdir / CORPUS, 'seed': self.seed, **settings}
    values = (f'--{name}={value}' for name, value in settings.items())
    return Job(CORPUS, ('data_prep.puppet', *values), alone=True)

  def run(
    self,
    name: str,
    config: str,
    flags: tuple[str, ...],
    *,
    seed: int | None = None,
    alone: bool = False,
    **sources: str,
  ) -> Job:
    """Trains a network on the puppets.

    Args:
      name: of the job.
      config: a file in `configs`, with its variant.
      flags: changes to it, 'key=value'.
      seed: if it is another.
      alone: see `Job`.
      sources: settings in the section `model` that name the folders of other jobs, by the jobs.
    """
    seed = self.seed if seed is None else seed
    changes = [f'data.root={self.workdir / CORPUS}', f'seed={seed}', *flags]
    changes += [f'model.{key}={self.workdir / job}' for key, job in sources.items()]
    arguments = [f'--config=configs/{config}', f'--workdir={self.workdir / name}']
    arguments += [f'--config.{change}' for change in changes]
    return Job(name, ('tfg_jax.main', *arguments), (CORPUS, *sources.values()), alone)
