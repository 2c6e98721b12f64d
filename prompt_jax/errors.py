"""The one error that is the user's to mend; entry points print it and exit 2.

Everything else that raises is ours to mend and keeps its traceback.
"""


class UserError(ValueError):
  """Bad input: says what was got, what was expected, where, what to do."""
