"""Arguments and results of modules as lists of tensors, and back."""

from .. import core


def flatten(value):
    """The tensors inside, and a plan to put others in their places. Knows tuples, lists and
    dictionaries; everything else stays in the plan."""
    tensors = []

    def walk(part):
        if isinstance(part, core.Tensor):
            tensors.append(part)
            return ("tensor", len(tensors) - 1)
        if isinstance(part, tuple) and not hasattr(part, "_fields"):
            return ("tuple", [walk(item) for item in part])
        if isinstance(part, list):
            return ("list", [walk(item) for item in part])
        if isinstance(part, dict):
            return ("dict", [(key, walk(item)) for key, item in part.items()])
        return ("other", part)

    plan = walk(value)
    return tensors, plan


def rebuild(plan, tensors):
    """The value of a plan, with these tensors."""
    kind, content = plan
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(rebuild(item, tensors) for item in content)
    if kind == "list":
        return [rebuild(item, tensors) for item in content]
    if kind == "dict":
        return {key: rebuild(item, tensors) for key, item in content}
    return content
