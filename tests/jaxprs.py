"""What a traced function multiplies: the operands and results of its dots."""

import jax


def _inner(value):
  """The jaxprs inside a parameter of an equation."""
  if isinstance(value, (tuple, list)):
    return [jaxpr for item in value for jaxpr in _inner(item)]
  if hasattr(value, 'eqns'):
    return [value]
  return [value.jaxpr] if hasattr(getattr(value, 'jaxpr', None), 'eqns') else []


def _equations(jaxpr):
  """Every equation, those of inner functions included."""
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      for inner in _inner(value):
        yield from _equations(inner)


def dots(function, *args) -> list[tuple[str, str, str]]:
  """(dtype of the left, of the right, of the result) of each dot_general."""
  return [
    (*(str(x.aval.dtype) for x in e.invars), str(e.outvars[0].aval.dtype))
    for e in _equations(jax.make_jaxpr(function)(*args).jaxpr)
    if e.primitive.name == 'dot_general'
  ]
