"""The grammar of any JSON object, in llguidance's Lark: what arguments are held to where no schema is to be enforced.

It allows every JSON text (RFC 8259) that is an object, save for layouts: between two parts stand at most eight blanks,
or two line breaks and the blanks of an indentation, so that no text can be filled with them. Escapes of surrogates come
in pairs, as the RFC advises: others make strings that are no Unicode, which clients cannot encode again.
"""

JSON_OBJECT_GRAMMAR = r"""
start: WS? object WS?
object: "{" WS? "}" | "{" WS? pair (WS? "," WS? pair)* WS? "}"
pair: STRING WS? ":" WS? value
array: "[" WS? "]" | "[" WS? value (WS? "," WS? value)* WS? "]"
value: object | array | STRING | NUMBER | "true" | "false" | "null"
STRING: "\"" (PLAIN | ESCAPED | UNIT | PAIR)* "\""
PLAIN: /[^"\\\x00-\x1f]/
ESCAPED: /\\["\\\/bfnrt]/
UNIT: /\\u([0-9a-ce-fA-CE-F][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2}/
PAIR: /\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}/
NUMBER: /-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/
WS: /[ \t]{1,8}|([ \t]{0,8}\r?\n){1,2}[ \t]{0,64}/
"""
