"""Programs as jax traces them: all their equations, those in loops and functions among them."""

import collections

from jax.extend import core


def equations(program):
    """List the equations of a jaxpr and of all that it contains."""
    jaxpr = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, list | tuple) else [value]:
                if isinstance(part, core.ClosedJaxpr | core.Jaxpr):
                    yield from equations(part)


def dtypes_of(program):
    """Give the dtypes of what each primitive gives, by its name."""
    found = collections.defaultdict(set)
    for equation in equations(program):
        found[equation.primitive.name] |= {variable.aval.dtype for variable in equation.outvars}
    return found


def scans(program):
    """List the loops over layers that are not part of another loop."""
    return [equation for equation in program.jaxpr.eqns if equation.primitive.name == "scan"]
