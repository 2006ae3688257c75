"""Function tools as the text the model was trained on: a TypeScript namespace in the developer message.

    namespace functions {

    // Get the weather.
    type get_weather = (_: {
    // City name
    city: string,
    unit?: "c" | "f", // default: c
    }) => any;

    } // namespace functions

For schemas that openai-harmony renders without loss the text is the same, character by character (a test compares).
"""

from collections.abc import Iterable

from router.harmony.conversation import FunctionTool
from router.harmony.schema_text import parameters_text


def functions_text(functions: Iterable[FunctionTool], path: str = "tools") -> str:
    """Return the tools section of the developer message; `path` names the tools in errors.

    Raises InvalidRequest naming the keyword of a schema that cannot be rendered.
    """
    blocks = [_function_text(tool, f"{path}[{place}].function.parameters") for place, tool in enumerate(functions)]
    return "# Tools\n\n## functions\n\nnamespace functions {\n\n" + "".join(blocks) + "} // namespace functions"


def _function_text(tool: FunctionTool, path: str) -> str:
    said = tool.description or str((tool.parameters or {}).get("description", ""))
    comment = "".join(f"// {line}\n" for line in said.splitlines())
    text = None if tool.parameters is None else parameters_text(tool.parameters, path)
    parameters = "()" if text is None else f"(_: {text})"
    return f"{comment}type {tool.name} = {parameters} => any;\n\n"
