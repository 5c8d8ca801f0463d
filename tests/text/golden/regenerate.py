"""Writes what Jinja2 makes of the templates here into the golden files.

Usage: python3 regenerate.py, in this folder, with the package jinja2. The environment is set up as
chat templates expect it: sandboxed, trim_blocks, lstrip_blocks, loop controls, and json.dumps as
the filter tojson. `constructs.json` holds one small template a line; NAME.json holds contexts for
NAME.jinja. The field "expected" is filled in; null means that Jinja2 refuses.
"""

import datetime
import glob
import json

import jinja2
import jinja2.ext
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    """{% generation %}: marks what the assistant wrote; prints its body."""

    tags = {'generation'}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(['name:endgeneration'], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method('render_body'), [], [], body).set_lineno(line)

    def render_body(self, caller):
        return caller()


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def render(template, context):
    """The text, or None if Jinja2 refuses."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters['tojson'] = to_json
    environment.globals['raise_exception'] = raise_exception

    def strftime_now(form):
        moment = datetime.datetime.fromtimestamp(context['current_time_unix'],
                                                 datetime.timezone.utc)
        return moment.strftime(form)

    environment.globals['strftime_now'] = strftime_now
    try:
        return environment.from_string(template).render(**context)
    except Exception:  # whatever Jinja2 and Python raise, the template is refused
        return None


def write(path, cases):
    lines = [json.dumps(case, ensure_ascii=False) for case in cases]
    with open(path, 'w', encoding='utf-8') as out:
        out.write('[\n' + ',\n'.join(lines) + '\n]\n')


def main():
    for path in sorted(glob.glob('*.json')):
        with open(path, encoding='utf-8') as source:
            cases = json.load(source)
        shared = None
        if path != 'constructs.json':
            with open(path[:-len('.json')] + '.jinja', encoding='utf-8') as source:
                shared = source.read()
        for case in cases:
            template = case['template'] if shared is None else shared
            case['expected'] = render(template, case['context'])
        write(path, cases)


if __name__ == '__main__':
    main()
