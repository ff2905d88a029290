"""Renders templates with Jinja as Hugging Face's transformers sets it up: the reference of chat_template_test.cpp.

usage: jinja_reference.py FOLDER < conversations.json > rendered.json
rendered: {template: {conversation: text, or null where the template raises}}
"""
import datetime
import glob
import json
import os
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])


class Generation(jinja2.ext.Extension):
    """transformers' {% generation %}: what the assistant wrote. Its text is that of its body."""
    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


environment.add_extension(Generation)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


now = datetime.datetime.now()
environment.filters["tojson"] = tojson
environment.globals.update(raise_exception=raise_exception, strftime_now=now.strftime)
conversations = json.load(sys.stdin)
rendered = {}
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.jinja"))):
    with open(path, encoding="utf-8") as f:
        source = f.read()
    texts = rendered[os.path.basename(path)] = {}
    for name, c in conversations.items():
        # what the engine gives every template beside the messages (chat.cpp: common_chat_extra_context)
        given = {"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": True, "add_generation_prompt": True,
                 "datetime": now.strftime("%b %d %Y"), "date_string": now.strftime("%d %b %Y")}
        try:
            given.update(c.get("chat_template_kwargs", {}))
            if "tools" in c:
                given["tools"] = c["tools"]
            texts[name] = environment.from_string(source).render(messages=c["messages"], **given)
        except Exception:  # whatever a template does to itself
            texts[name] = None
json.dump(rendered, sys.stdout)
