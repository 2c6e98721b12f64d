"""What a flag that counts may be."""

from prompt_jax.errors import UserError


def at_least_one(args, *names: str) -> None:
  """Raises UserError for the first of some flags that is below 1.

  Args:
    args: parsed flags.
    names: of flags, without their dashes.
  """
  for name in names:
    if getattr(args, name) < 1:
      raise UserError(
        f'--{name} is {getattr(args, name)}; expected at least 1.'
      )
