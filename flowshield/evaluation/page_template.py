"""The HTML pages' templates."""

__all__ = ["page_template"]

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def page_template(name: str) -> Template:
    """Loads a template of this package; what is put into it is escaped."""
    environment = Environment(
        loader=PackageLoader("flowshield.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
