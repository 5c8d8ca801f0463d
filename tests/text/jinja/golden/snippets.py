"""Writes snippets.json: small templates of every kind and what Jinja2 makes of them.

Usage: python3 snippets.py, in this folder, with the package jinja2. The environment is that of
chat templates (see ../../text/golden/regenerate.py, whose functions are used). "expected" is null
where Jinja2 refuses.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', '..', 'text', 'golden'))
import regenerate  # noqa: E402

CONTEXT = {
    'text': 'Hello, World', 'empty': '', 'n': 7, 'neg': -3, 'f': 2.5, 'yes': True, 'no': False,
    'none': None, 'big': 12345678901234567890, 'list': [3, 1, 2], 'words': ['pear', 'Apple', 'fig'],
    'nested': [[1, 2], [3]], 'map': {'b': 2, 'a': 1, 'C': 3},
    'people': [{'name': 'Ann', 'age': 30, 'city': {'zip': 'B'}},
               {'name': 'bob', 'age': 25, 'city': {'zip': 'A'}},
               {'name': 'Cyd', 'age': 30, 'city': {'zip': 'B'}}],
    'tree': [{'v': 1, 'sub': [{'v': 2, 'sub': []}, {'v': 3, 'sub': [{'v': 4, 'sub': []}]}]},
             {'v': 5, 'sub': []}],
    'html': '<b class="x">Tom & Jerry\'s</b>', 'lines': 'one\ntwo\n\nthree', 'uni': 'Straße Ωμέγα ÉÀ',
    'messages': [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': None},
                 {'role': 'tool', 'content': 'ok'}],
    'tools': None, 'current_time_unix': 1767323045,
}

FILTERS = '''
{{ neg|abs }} {{ -2.5|abs }}
{{ map|attr('a') }}|{{ text|attr('upper') is callable }}|{{ text|attr('nope') }}
{% for b in range(7)|batch(3) %}{{ b }};{% endfor %}
{% for b in range(7)|batch(3, 'x') %}{{ b|join('-') }};{% endfor %}
{{ 'hELLO wORLD'|capitalize }} {{ 'éCOLE'|capitalize }} {{ 'ßa'|capitalize }}
[{{ 'ab'|center(7) }}] [{{ 'abc'|center(6) }}] [{{ 'abc'|center(2) }}]
{{ list|count }} {{ map|length }} {{ text|length }} {{ uni|length }}
{{ missing|default('d') }} {{ none|default('d') }} {{ none|default('d', true) }} {{ ''|d('e', boolean=True) }}
{{ map|dictsort }} {{ map|dictsort(true) }}
{{ map|dictsort(by='value', reverse=true) }}
{{ html|e }} {{ html|escape }} {{ html|e|e }} {{ html|forceescape|forceescape }}
{{ (html|safe)|e }} {{ ('<'|e) + '<' }} {{ ('<'|e) ~ '<' }} {{ ['<'|e] }}
{{ 1|filesizeformat }} {{ 999|filesizeformat }} {{ 1000|filesizeformat }} {{ 13000000|filesizeformat }} {{ 1048576|filesizeformat(true) }}
{{ list|first }} {{ list|last }} {{ []|first }} {{ []|last }} {{ text|first }} {{ text|last }}
{{ '3.5'|float }} {{ 'x'|float }} {{ 'x'|float(1.5) }} {{ '1e3'|float }} {{ 3|float }} {{ ' 2 '|float }}
{{ '%s is %d'|format('x', 5) }} {{ '%(a)s-%(b)s'|format(a=1, b=2) }}
{% for k, v in people|groupby('age') %}{{ k }}:{{ v|map(attribute='name')|join(',') }};{% endfor %}
{% for g in people|groupby('city.zip') %}{{ g.grouper }}={{ g.list|length }};{% endfor %}
{% for k, v in [{'a': 'X'}, {'a': 'x'}, {}]|groupby('a', default='z') %}{{ k }}{{ v|length }};{% endfor %}
{% for k, v in [{'a': 'X'}, {'a': 'x'}]|groupby('a', case_sensitive=true) %}{{ k }}{{ v|length }};{% endfor %}
{{ lines|indent }}|
{{ lines|indent(2, true) }}|
{{ lines|indent(2, blank=true) }}|
{{ lines|indent('> ') }}|
{{ lines|indent(width=3, first=True, blank=True) }}|
{{ '42'|int }} {{ '4.9'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ 3.99|int }} {{ -3.99|int }} {{ '0x1A'|int(base=16) }} {{ '1A'|int(0, 16) }} {{ '101'|int(base=2) }} {{ '1_000'|int }} {{ true|int }} {{ none|int(3) }}
{{ map|items|list }} {{ missing|items|list }}
{{ list|join }} {{ list|join(', ') }} {{ people|join('+', attribute='name') }} {{ people|join('|', 'city.zip') }}
{{ 'abc'|list }} {{ map|list }} {{ range(3)|list }}
{{ 'ÀÉ STRASSE'|lower }} {{ uni|lower }} {{ 'ΑΣ ΣΑΣ'|lower }}
{{ people|map(attribute='name')|list }} {{ words|map('upper')|list }} {{ ['1', 'x']|map('int', 5)|list }} {{ people|map(attribute='nope', default='-')|list }}
{{ words|map('replace', 'p', 'b')|join(' ') }} {{ nested|map('sum')|list }} {{ nested|map('first')|join }}
{{ list|max }} {{ list|min }} {{ words|max }} {{ words|min }} {{ words|min(case_sensitive=true) }} {{ people|max(attribute='age') }} {{ []|max }}|
{{ list|reject('equalto', 1)|list }} {{ list|reject('odd')|list }} {{ list|select('gt', 1)|list }} {{ ['', 'a', none]|select|list }} {{ [0, 1]|reject|list }}
{{ people|selectattr('age', 'equalto', 30)|map(attribute='name')|list }} {{ people|rejectattr('age', 'lt', 30)|list|length }} {{ people|selectattr('nope')|list }}
{{ people|selectattr('city.zip', 'eq', 'A')|map(attribute='name')|first }}
{{ 'a-b-c'|replace('-', '+') }} {{ 'aaa'|replace('a', 'b', 2) }} {{ 'ab'|replace('', '.') }} {{ 5|replace(5, 'x') }}
{{ list|reverse|list }} {{ 'abc'|reverse }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.567|round(2) }} {{ 2.567|round(1, 'floor') }} {{ 2.51|round(1, 'ceil') }} {{ 42|round }} {{ 1234|round(-2) }} {{ 1234.5|round(-2) }} {{ -2.5|round }}
{% for s in range(7)|slice(3) %}{{ s }};{% endfor %}
{% for s in range(5)|slice(3, 'x') %}{{ s|join(',') }};{% endfor %}
{{ list|sort }} {{ list|sort(reverse=true) }} {{ words|sort }} {{ words|sort(case_sensitive=true) }} {{ people|sort(attribute='age')|map(attribute='name')|list }} {{ people|sort(attribute='age,name', reverse=True)|map(attribute='name')|join }}
{{ people|sort(attribute='city.zip')|map(attribute='name')|join(' ') }} {{ [[2, 'a'], [1, 'b']]|sort }} {{ [[2, 'a'], [1, 'b']]|sort(attribute=1) }}
{{ [1, 'a']|sort }}
{{ 5|string }} {{ none|string }} {{ [1]|string }} {{ 'x'|string|length }}
{{ '<p>Hi <b>there</b>  you&amp;me</p><!-- c -->'|striptags }}
{{ list|sum }} {{ [0.1, 0.2]|sum }} {{ people|sum(attribute='age') }} {{ list|sum(start=10) }} {{ []|sum }} {{ nested|sum(start=[]) }}
{{ ['a']|sum }}
{{ "hello world-wide (web) it's"|title }} {{ 'ÉCOLE été'|title }}
{{ map|tojson }} {{ 'é"\\n'|tojson }} {{ [1.0, true, none]|tojson }} {{ map|tojson(indent=2) }} {{ map|tojson(sort_keys=true) }} {{ 'é'|tojson(ensure_ascii=true) }} {{ [1, 2]|tojson(separators=(',', ':')) }} {{ []|tojson(indent=2) }} {{ {}|tojson(indent=2) }} {{ [[1]]|tojson(indent='\t') }}
{{ '  x '|trim }}| {{ 'xxaxx'|trim('x') }} {{ ' \u00a0a\u2003'|trim }}|
{{ 'The quick brown fox jumps over'|truncate(15) }} {{ 'The quick brown fox jumps'|truncate(15, true) }} {{ 'The quick brown fox jumps'|truncate(12, false, '!', 0) }} {{ 'short one'|truncate(5) }} {{ 'abcdefghij'|truncate(5, leeway=0) }}
{{ [1, 2, 1, 3, 2]|unique|list }} {{ ['a', 'A', 'b']|unique|list }} {{ ['a', 'A']|unique(true)|list }} {{ people|unique(attribute='age')|map(attribute='name')|list }}
{{ 'straße ŉ ﬁ éà'|upper }} {{ uni|upper }}
{{ 'a b/c?d=e&f'|urlencode }} {{ {'a b': 'c/d', 'e': 1}|urlencode }} {{ [['x', 'é']]|urlencode }} {{ 'é~-_.'|urlencode }}
{{ "it's a few words, 2 of_them"|wordcount }} {{ ''|wordcount }}
{{ {'class': 'a b', 'id': none, 'x': '"<'}|xmlattr }}| {{ {'a': 1}|xmlattr(false) }}
{{ missing|length }} {{ missing|list }} {{ missing|join }} {{ missing|first }}|
{{ 5|length }}
{{ text|frobnicate }}
{{ text|truncate(1) }}
{{ list|batch }}
{{ none|upper }} {{ 5|lower }} {{ true|title }} {{ 1.50|string|trim }}
{{ list|map('frob')|list }}
{{ [3, none]|sort }}
{{ list | first | string ~ 'x' }} {{ 2 ** list|first }}
{{ -list|first }}
'''

TESTS = '''
{{ true is boolean }} {{ 1 is boolean }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is float }} {{ 1.0 is integer }} {{ 1 is number }} {{ '1' is number }}
{{ range is callable }} {{ text is callable }} {{ text.upper is callable }}
{{ missing is defined }} {{ n is defined }} {{ missing is undefined }} {{ none is undefined }} {{ map.zz is defined }} {{ map['a'] is defined }}
{{ 6 is divisibleby 3 }} {{ 7 is divisibleby(3) }} {{ 6 is even }} {{ 7 is odd }} {{ -3 is odd }}
{{ 1 is eq 1 }} {{ 1 is equalto 2 }} {{ 1 is ne 2 }}
{{ 1 is == 1 }}
{{ 1 is lt 2 }} {{ 2 is le 2 }} {{ 3 is gt 2 }} {{ 2 is ge 3 }} {{ 1 is lessthan 2 }} {{ 2 is greaterthan 1 }}
{{ ('x'|e) is escaped }} {{ 'x' is escaped }}
{{ 'upper' is filter }} {{ 'frob' is filter }} {{ 'odd' is test }} {{ 'frob' is test }}
{{ true is false }} {{ false is false }} {{ true is true }} {{ 1 is true }}
{{ 1 is in [1, 2] }} {{ 'e' is in text }} {{ 'a' is in map }} {{ 5 is not in list }}
{{ 'abc' is lower }} {{ 'aBc' is lower }} {{ 'ABC' is upper }} {{ '123' is upper }} {{ 'É' is upper }} {{ 'ß' is lower }}
{{ map is mapping }} {{ list is mapping }} {{ list is sequence }} {{ map is sequence }} {{ text is sequence }} {{ 5 is sequence }} {{ list is iterable }} {{ 5 is iterable }} {{ text is iterable }} {{ range(2) is sequence }}
{{ none is none }} {{ missing is none }} {{ tools is none }} {{ tools is not none }} {{ tools is defined }}
{{ list is sameas list }} {{ [1] is sameas [1] }} {{ none is sameas none }} {{ true is sameas 1 }} {{ false is sameas false }}
{{ text is string }} {{ 5 is string }} {{ ('<'|e) is string }} {{ none is string }}
{{ 5 is frob }}
{{ not 5 is even }} {{ 5 is not even and true }} {{ (5 is odd) == true }}
{{ n is defined and n is number and n is not string }}
{% if messages[1].content is none %}none{% endif %} {% if messages[1]['content'] is not none %}some{% else %}none{% endif %}
'''

EXPRESSIONS = '''
{{ range(5)[1:3] }} {{ range(5)[::2] }} {{ range(0, 5, 2)[:] }} {{ range(5)[::-1] }} {{ range(10)[-3:] }} {{ range(10)[7:2] }} {{ range(10)[::100] }} {{ range(2, 20, 3)[1:4]|list }} {{ range(9, 0, -2)[1:]}} {{ range(5)[1:3] == range(1, 3) }} {{ range(5)[1:3][0] }} {{ range(5)[9:]|length }} {{ range(3, 1)[:1] }}
{{ range(5)[::0] }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ (-2) ** 2 }} {{ 1 + 2 * 3 - 4 }} {{ 10 - 2 - 3 }}
{{ 2 ** 64 }} {{ 2 ** 100 + 1 }} {{ big }} {{ big + 1 }} {{ -big }} {{ big * big }} {{ big // 7 }} {{ big % 97 }} {{ -big // 7 }} {{ -big % 97 }} {{ big > 1 }} {{ big == big }} {{ 9223372036854775807 + 1 }} {{ -9223372036854775808 - 1 }} {{ 9223372036854775808 - 1 }}
{{ 123456789012345678901234567890 }} {{ 1_000_000 * 1_000_000 * 1_000_000 * 1_000_000 }} {{ big / 3 }} {{ big|string|length }} {{ big is integer }} {{ big|tojson }} {{ [big] }} {{ big in [big] }} {{ big < 1e30 }} {{ big|float }} {{ '99999999999999999999'|int }} {{ 1e20|int }}
{{ 0xff }} {{ 0o17 }} {{ 0b101 }} {{ 0xFF_FF }} {{ 1_000 }} {{ 1e3 }} {{ 1.5e-3 }} {{ 1E2 }} {{ 0 }} {{ 00 }}
{{ 1.0 }} {{ 0.1 + 0.2 }} {{ 1e100 }} {{ 1e22 }} {{ 123456789.123 }} {{ 1e-7 }} {{ 100000000000000000.0 }} {{ 3.0 * 2 }}
{{ 'a' 'b' "c" }} {{ 'a' ~ 1 ~ none ~ true }} {{ 'ab' * 3 }} {{ 3 * 'ab' }} {{ [1] * 2 }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' + 'b' }}
{{ 'a' + 1 }}
{{ [1] + (2,) }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ '1' == 1 }} {{ true == 1 }} {{ none == false }} {{ [1, 2] == [1, 2] }} {{ [1] < [2] }} {{ (1, 2) < (1, 3) }} {{ 'a' < 'b' }} {{ {'a': 1} == {'a': 1.0} }}
{{ 1 < 'a' }}
{{ 1 in [1] }} {{ 1 not in [1] }} {{ 'b' in map }} {{ 'ell' in text }} {{ none in [none] }} {{ 2 in range(3) }} {{ [1] in [[1]] }}
{{ true and 'x' }} {{ '' or 'y' }} {{ not '' }} {{ not not 1 }} {{ none or [] or 'z' }} {{ 0 and 1/0 }}
{{ 'a' if yes else 'b' }} {{ 'a' if no else 'b' }} {{ 'a' if no }}| {{ 1 if no else 2 if no else 3 }}
{{ list[0] }} {{ list[-1] }} {{ list[5] }}| {{ text[0] }} {{ text[-1] }} {{ map['a'] }} {{ map.a }} {{ map['zz'] }}| {{ people[0].city.zip }} {{ people[0]['city']['zip'] }} {{ nested[0][1] }} {{ nested.0.1 }}
{{ list[1:] }} {{ list[:2] }} {{ list[::-1] }} {{ list[-2:] }} {{ text[1:5] }} {{ text[::-1] }} {{ text[::2] }} {{ list[1:1] }} {{ 'héllo'[1:3] }} {{ (1, 2, 3)[1:] }} {{ range(10)[2:8:3]|list }} {{ text[100:] }}| {{ list[:-1] }} {{ messages[:-1]|length }}
{{ list[0:2:0] }}
{{ missing.x }}
{{ missing['x'] }}
{{ missing() }}
{{ none.x }}| {{ (5).x }}| {{ none['x'] }}|
{{ [] }} {{ [1, 'a', none, true, 1.5] }} {{ (1,) }} {{ () }} {{ {} }} {{ {'a': [1, {'b': none}]} }} {{ {1: 'x', 'y': 2} }} {{ (1, 2)|list }} {{ {(1, 2): 3} }}
{{ "it's" }} {{ ["it's", 'a"b', "both'\\""] }} {{ ['\\n\\t\\\\', 'é', '\u00a0x'] }}
{{ {'a': 1, 'a': 2} }}
{{ {[1]: 2} }}
{{ 1 / 0 }}
{{ 5 % 0 }}
{{ map.items() }} {{ map.keys() }} {{ map.values() }} {{ map.items()|list }} {{ map.keys()|first }} {{ map.values()|sum }}
{% for k, v in map.items() %}{{ k }}={{ v }};{% endfor %} {{ map.get('a') }} {{ map.get('z') }} {{ map.get('z', 9) }} {{ map.copy() }}
{{ map.keys()[0] }}
{{ list.append(4) }}
{{ map.update({'z': 1}) }}
{{ list.pop() }}
{{ map.setdefault('q', 1) }}
{{ list.index(1) }} {{ list.count(3) }} {{ (1, 2, 1).count(1) }} {{ list.copy() }}
{{ list.index(99) }}
{{ range(3) }} {{ range(1, 4) }} {{ range(10, 0, -3)|list }} {{ range(0)|list }} {{ range(3)|length }} {{ range(5)[-1] }} {{ range(0, 10, 2) }}
{{ range(1, 5, 0) }}
{{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {{ dict(map, z=9) }} {{ dict() }}
{{ namespace(a=1).a }} {% set ns = namespace(x=0) %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}
{{ text|upper|lower|title }} {{ (text ~ '!')|upper }} {{ text|replace('l', 'L')|length }}
{{ strftime_now('%Y-%m-%d %H:%M:%S') }} {{ strftime_now('%d %B %Y') }} {{ strftime_now('%b %d, %y %a %A %j') }}
{{ raise_exception('no ' ~ text) }}
{{ lambda x: x }}
{{ text.__class__ }}|{{ text.__len__ }}|
{{ 1 if }}
{{ (1 }}
{{ }}
{{ 'unclosed }}
{{ 5 5 }}
{{ {'a' 1} }}
{{ *list }}
{{ '\\x41\\u00e9\\U0001F600\\101\\d' }} {{ "\\"" }}
{{ 1.real }} {{ 1 .x }}|
{{ none }} {{ None }} {{ true }} {{ True }} {{ false }}
{{ 1|float + 2|int }} {{ -5|abs }} {{ (-5)|abs }} {{ not n == 7 }} {{ +n }} {{ - - n }}
{{ 10 == 10 and 'a' in 'abc' or false }} {{ 'a' ~ 'b' * 2 }}
{{ 1 + 1 ~ 1 + 1 }}
{{ 1 + (1 ~ 1)|int }} {{ 1 ~ 1 + 1 }}
'''

METHODS = '''
{{ 'hELLO'.capitalize() }} {{ 'Straße'.casefold() }} {{ 'ab'.center(5) }}| {{ 'ab'.center(6, '*') }} {{ 'abc'.center(6, '-') }} {{ 'abc'.center(8, '-') }}
{{ 'banana'.count('a') }} {{ 'banana'.count('a', 2) }} {{ 'banana'.count('an', 0, 4) }} {{ ''.count('') }}
{{ 'abc'.endswith('c') }} {{ 'abc'.endswith(('x', 'bc')) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.startswith(('a',)) }} {{ 'abc'.endswith('b', 0, 2) }}
{{ 'a\\tb'.expandtabs(4) }}| {{ '\\t'.expandtabs() }}|
{{ 'banana'.find('an') }} {{ 'banana'.find('an', 2) }} {{ 'banana'.find('x') }} {{ 'banana'.rfind('an') }} {{ 'banana'.index('n') }} {{ 'banana'.rindex('n') }} {{ 'éab'.find('b') }}
{{ 'abc'.index('x') }}
{{ '{} {}'.format(1, 'a') }} {{ '{1} {0}'.format(1, 2) }} {{ '{a} {b[0]} {c.x}'.format(a=1, b=[2], c={'x': 3}) }}
{{ '{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd') }} {{ '{:05d} {:+d} {:,} {:x} {:#x} {:b} {:o}'.format(42, 42, 1234567, 255, 255, 5, 8) }}
{{ '{:.2f} {:e} {:g} {:%} {:10.3f}|{:<10.1f}|'.format(3.14159, 12345.678, 0.00001, 0.25, 2.5, 2.25) }} {{ '{:.3}'.format('abcdef') }} {{ '{!r} {!s}'.format('a', 'b') }} {{ '{{}}'.format() }}
{{ '{:{}}|'.format('a', 5) }} {{ '{:_}'.format(1000000) }} {{ '{:5}|{:<5}|'.format(3, 4) }} {{ '{}'.format(none) }} {{ '{:>6}'.format(true) }} {{ '{:.1%}'.format(0.1234) }} {{ '{:c}'.format(65) }}
{{ '{} {}'.format(1) }}
{{ '{a}'.format_map({'a': 5}) }}
{{ '{:d}'.format('x') }}
{{ '%s %r %d %i %5.2f|%-5s|%05d %x %X %o %e %g %c %%' % ('a', 'b', 3, 4, 2.345, 'c', 42, 255, 255, 8, 1234.5, 0.5, 'z') }}
{{ '%s' % 5 }} {{ '%s' % [1] }} {{ '%(a)s %(b)03d' % {'a': 1, 'b': 2} }} {{ '%+d % d' % (3, 4) }} {{ '%.3s' % 'abcdef' }} {{ '%*d' % (5, 42) }} {{ '%.3d' % 7 }}
{{ '%d %s' % 1 }}
{{ '%d' % 'x' }}
{{ '%s' % (1, 2) }}
{{ 'abc1'.isalnum() }} {{ 'abc'.isalpha() }} {{ 'é'.isalpha() }} {{ '12'.isdigit() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '½'.isnumeric() }} {{ ''.isalpha() }} {{ 'abc'.isascii() }} {{ 'é'.isascii() }} {{ '東京'.isalpha() }} {{ '٣'.isdigit() }}
{{ 'abc'.islower() }} {{ 'ABC'.isupper() }} {{ 'A1'.isupper() }} {{ '1'.isupper() }} {{ 'Hello World'.istitle() }} {{ 'hello'.istitle() }} {{ ' \\n'.isspace() }} {{ ''.isspace() }} {{ 'a\\n'.isprintable() }} {{ ''.isprintable() }}
{{ '-'.join(['a', 'b']) }} {{ ''.join('abc') }} {{ ', '.join(words) }} {{ '-'.join(map) }}
{{ '-'.join([1]) }}
{{ 'a'.ljust(4) }}| {{ 'a'.rjust(4, '.') }} {{ '42'.zfill(5) }} {{ '-42'.zfill(5) }} {{ 'abc'.zfill(2) }}
{{ 'ABC É'.lower() }} {{ '  x '.lstrip() }}| {{ 'xxa'.lstrip('x') }} {{ ' a '.rstrip() }}| {{ 'abc'.strip('ac') }} {{ '\\n a \\n'.strip() }}|
{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('x') }} {{ 'abc'.rpartition('x') }}
{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }} {{ 'abc'.removeprefix('x') }}
{{ 'aXbXc'.replace('X', '-') }} {{ 'aaa'.replace('a', 'b', 1) }} {{ 'abc'.replace('', '-') }}
{{ 'a b  c'.split() }} {{ 'a,b,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b c '.split(none, 1) }} {{ ' a b c '.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a</think>b'.split('</think>')[-1] }} {{ 'a b'.split(maxsplit=1) }}
{{ 'a'.split('') }}
{{ lines.splitlines() }} {{ 'a\\r\\nb\\n'.splitlines(true) }} {{ 'a\\x0bb\\u2028c'.splitlines() }} {{ ''.splitlines() }}
{{ 'Hello World'.swapcase() }} {{ "they're bill's".title() }} {{ 'éa ñb'.title() }} {{ 'abc'.upper() }} {{ 'ŉß'.upper() }}
{{ text.frob() }}
{{ text.encode() }}
{{ (5).bit_length() }}
{{ 'abc'.find('', 5) }} {{ 'abc'.find('', 3) }} {{ 'abc'.find('', 2, 1) }} {{ 'abc'.rfind('', 5) }} {{ 'abc'.rfind('', 1, 2) }} {{ 'abc'.find('c', -1) }} {{ 'abc'.find('c', -9, 9) }} {{ 'abc'.find('b', 5) }}
{{ 'abc'.index('', 5) }}
{{ 'abc'.startswith('', 5) }} {{ 'abc'.startswith('', 3) }} {{ 'abc'.startswith('', 2, 1) }} {{ 'abc'.endswith('', 5) }} {{ 'abc'.endswith('', 1, 1) }} {{ 'abc'.endswith(('x', ''), 4) }} {{ 'abc'.startswith('c', -1) }}
{{ 'abc'.count('', 5) }} {{ 'abc'.count('', 3) }} {{ 'abc'.count('', 2, 1) }} {{ 'abc'.count('') }} {{ 'éé'.count('é', 1) }}
{{ list.append is defined }} {{ list.append is undefined }} {{ list.index is defined }} {{ map.update is defined }} {{ map.get is defined }} {{ map.pop is callable }} {{ (1, 2).append is defined }} {{ list.append }}| {{ list|attr('append') is defined }} {{ map['pop'] is defined }} {{ {'pop': 3}['pop'] }} {{ {'pop': 3}.pop is defined }}
{{ list.append(4) }}
{{ map.update({}) }}
{{ '%a' % 'é' }} {{ '%a' % ['東😀'] }} {{ '%.4a|%8a' % ('éa', 'é') }} {{ '{!a}'.format('é\n') }} {{ '%a' % 5 }}
{{ '\x7f'|tojson(ensure_ascii=true) }} {{ '\x7f'|tojson }} {{ '\x1f~é'|tojson(ensure_ascii=true) }}
{{ dict.fromkeys(['a', 'b']) }} {{ dict.fromkeys('ab', 1) }} {{ map.fromkeys([1, 1], 'x') }} {{ dict.fromkeys([]) }}
{{ dict.fromkeys(iterable=['a']) }}
{{ dict.fromkeys([[1]]) }}
{{ dict.fromkeys(5) }}
{{ '0x1f'|int(base=0) }} {{ '0b11'|int(0, 0) }} {{ '-0o17'|int(base=0) }} {{ '12'|int(base=0) }} {{ '012'|int(base=0) }} {{ '000'|int(base=0) }} {{ '0xg'|int(5, 0) }} {{ ' 1_000 '|int(base=0) }} {{ '1f'|int(base=0) }}
{{ 'ffffffffffffffffffff'|int(base=16) }} {{ '-zzzzzzzzzzzzzz'|int(base=36) }} {{ '12'|int(base=1) }} {{ '12'|int(base=37) }} {{ 'x'|int(7, 99) }} {{ '0b1'|int(base=16) }} {{ '0x'|int(3, 16) }}
{{ (1.5).is_integer() }} {{ (2.0).is_integer() }} {{ f.is_integer() }} {{ f.is_integer is defined }} {{ (f * 1e308).is_integer() }} {{ missing is callable }} {{ missing.x is callable }}
{{ n.is_integer() }}
{{ 'aa'.replace(old='a', new='b') }}
{{ 'aa'.replace('a', 'b', count=1) }}
{{ 'aa'.strip(chars='a') }}
{{ 'a'.center(width=5) }}
{{ 'a'.find(sub='a') }}
{{ map.get(key='a') }}
{{ map.get('z', default=1) }}
{{ list.index(value=1) }}
{{ 'a'.zfill(width=3) }}
{{ '-'.join(iterable=['a']) }}
{{ range(stop=3) }}
{{ 1 is eq(other=1) }}
{{ 'a b c'.split(sep=' ', maxsplit=1) }} {{ 'a b c'.rsplit(maxsplit=1) }} {{ 'a\nb'.splitlines(keepends=true) }} {{ 'a\tb'.expandtabs(tabsize=2) }} {{ '{x}'.format(x=1) }}

{{ 'abc'.startswith(5) }}
{{ 'x'.join(missing) }}| {{ 'abc'.strip(none) }}
'''

STATEMENTS = '''
{% set g = list|select %}{{ g|first }}{{ g|list }}{{ g|list }}
{% set g = list|map('string') %}{{ g|first }}{{ g|first }}{{ g|join('-') }}{{ g|first }}|
{% set g = list|reject('odd') %}{{ 2 in g }}{{ g|list }}{{ 2 in g }}
{% set g = words|select %}{{ 'Apple' in g }}{{ g|list }}
{% set g = list|select %}{% for x in g %}{{ x }}{% endfor %}{% for x in g %}{{ x }}{% else %}gone{% endfor %}
{% set g = list|reverse %}{{ g|first }}{% for x in g %}{{ x }}{% endfor %}
{% set g = []|select %}{{ g|first }}|{{ g|list }}{{ g is iterable }}
{% raw %}{{ x }} {% if %} {# c #}{% endraw %}|
a {%- raw %} {{ b }} {% endraw -%} c
{%- raw -%}  x  {%- endraw %}
{% raw %}unclosed
{% with a = 1, b = n %}{{ a + b }}{% endwith %}{{ a }}|
{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}|
{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% filter upper %}abc {{ text }}{% endfilter %}
{% filter replace('a', 'b')|upper %}banana{% endfilter %}
{% filter trim %}  x  {% endfilter %}|
{% set x | upper %}abc{{ n }}{% endset %}{{ x }}
{% set x %}a{{ n }}{% endset %}{{ x|length }}{{ x }}
{% set x | replace('a', 'b') | upper %}banana{% endset %}{{ x }}
{% macro m(a, b=2, *c) %}{% endmacro %}
{% macro m(a, b=2) %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=1, a=0) }}{{ m() }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}
{% macro m() %}{{ caller() }}!{% endmacro %}{% call m() %}inside {{ n }}{% endcall %}
{% macro m(items) %}{% for i in items %}{{ caller(i) }},{% endfor %}{% endmacro %}{% call(x) m([1, 2]) %}<{{ x }}>{% endcall %}
{% macro m() %}{{ caller is defined }}{{ caller }}{% endmacro %}{{ m() }}
{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}
{% macro m(a, b) %}{% endmacro %}{{ m.name }} {{ m.arguments }} {{ m.catch_kwargs }} {{ m.catch_varargs }} {{ m.caller }}
{% macro fact(n) %}{% if n < 2 %}1{% else %}{{ n * fact(n - 1)|int }}{% endif %}{% endmacro %}{{ fact(10) }}
{% for i in range(2) %}{% macro m() %}{{ i }}{{ loop.index }}{% endmacro %}{{ m() }}{% endfor %}
{% if yes %}{% macro m(x) %}({{ x }}){% endmacro %}{% endif %}{{ m(1) }}
{% macro outer() %}{% macro inner() %}in{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}
{% set ns = namespace() %}{% for i in range(2) %}{% macro m() %}{{ i }}{% endmacro %}{% set ns.m = m %}{% endfor %}{{ ns.m is callable }}
{% set y = 5 %}{% macro m() %}{{ y }}{% set y = 6 %}{{ y }}{% endmacro %}{{ m() }}{{ y }}
{% macro m(a=n) %}{{ a }}{% endmacro %}{{ m() }}
{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(3) }}
{% macro args(a, b, c=0) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ args(*[1, 2]) }}{{ args(**{'a': 1, 'b': 2, 'c': 3}) }}{{ args(1, *[2], **{'c': 9}) }}
{{ dict(**map) }} {{ range(*[1, 4])|list }} {{ '{} {}'.format(*words) }}
{% block body %}A{{ n }}{% endblock %} {% block other %}{% set q = 3 %}{{ q }}{% endblock other %}{{ q }}|
{% set z = 1 %}{% for i in [1] %}{% block b %}{{ i }}{{ z }}{% endblock %}{% endfor %}
{% for i in [1, 2] %}{% block c scoped %}{{ i }}{% endblock %}{% endfor %}
{% block a %}{% endblock %}{% block a %}{% endblock %}
{% autoescape false %}{{ html }}{% endautoescape %}
{% autoescape true %}{{ html }}{% endautoescape %}
{% for t in tree recursive %}{{ t.v }}{% if t.sub %}({{ loop(t.sub) }}){% endif %}{% endfor %}
{% for t in tree recursive %}{{ loop.depth }}{{ loop.depth0 }}:{{ loop.index }}{{ loop(t.sub) }};{% endfor %}
{% for i in [1] %}{{ loop([2]) }}{% endfor %}
{% for i in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}
{% for i in list %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}
{% for i in list %}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for i in [1, 1, 2, 2, 1] %}{{ loop.changed(i) }} {% endfor %}
{% for m in messages %}{% if loop.changed(m.role) %}{{ m.role }}{% endif %}{% endfor %}
{% for i in [] %}x{% else %}none{% endfor %} {% for i in [1] %}x{% else %}none{% endfor %}
{% for i in range(10) if i % 2 %}{{ i }}{{ loop.index }}{% endfor %} {% for i in list if i > 5 %}x{% else %}none{% endfor %}
{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}
{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %} {% for (a, b), c in [[[1, 2], 3]] %}{{ a }}{{ b }}{{ c }}{% endfor %} {% for a, (b, c) in [(1, (2, 3))] %}{{ c }}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
{% for k in map %}{{ k }}{% endfor %} {% for c in 'abc' %}{{ c }}{% endfor %} {% for x in missing %}{{ x }}{% else %}e{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set (c, d) = [3, 4] %}{{ c }}{{ d }} {% set t = 1, 2 %}{{ t }} {% set a, b = b, a %}{{ a }}{{ b }}
{% set n.x = 5 %}
{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% set x = 1 %}{% if yes %}{% set x = 2 %}{% endif %}{{ x }}
{% if n == 7 %}seven{% elif n == 8 %}eight{% else %}other{% endif %} {% if no %}a{% elif yes %}b{% endif %} {% if missing %}x{% endif %}|
{% if n > 5 and text %}{% if not no %}deep{% endif %}{% endif %}
{% set c = cycler('a', 'b', 'c') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}
{% set j = joiner('; ') %}{% for i in list %}{{ j() }}{{ i }}{% endfor %} {% set k = joiner() %}{{ k() }}a{{ k() }}b
{% generation %}said {{ n }}{% endgeneration %}
{% for m in messages %}{% generation %}{{ m.role }}{{ loop.index }}{% endgeneration %}{% endfor %}
{# comment #}a{#- strip -#} b
{%- if yes -%}   x   {%- endif -%}   y
x  {%+ set q = 1 %}z
a {{- " b " -}} c
{% include 'x' %}
{% import 'x' as y %}
{% extends 'x' %}
{% do list.append(1) %}
{% frob %}
{% if %}{% endif %}
{% for in x %}{% endfor %}
{% endfor %}
{% set %}
{% macro %}{% endmacro %}
{% break %}
{% for i in range(3) %}{% for j in range(i) %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{% endfor %}
{% for i in range(2) %}{% set outer = loop %}{% for j in range(2) %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{% set ns = namespace(found=false, items=[]) %}{% for m in messages %}{% if m.role == 'tool' %}{% set ns.found = true %}{% set ns.items = ns.items + [m.role] %}{% endif %}{% endfor %}{{ ns.found }}{{ ns.items }}
{% set ns = namespace(a=1) %}{{ ns.b }}|{% set ns.b = 2 %}{{ ns.b }}{{ ns['a'] }}
{% for m in messages[::-1] %}{{ loop.index0 }}{{ m.role[0] }}{% endfor %}
{% for key, value in {'b': 1, 'a': 2}|dictsort %}{{ key }}{{ value }}{% endfor %} {% for key in map|sort %}{{ key }}{% endfor %}
{{ messages|map(attribute='role')|join(' > ') }} {{ messages|selectattr('content')|list|length }} {{ (messages|last).role }} {{ messages|rejectattr('role', 'in', ['tool', 'user'])|map(attribute='role')|first }}
{% if tools is not none %}T{% endif %}{% if tools %}U{% endif %}{% if not tools is defined %}V{% endif %}{% if tools is defined and tools is not none and tools|length > 0 %}W{% endif %}ok
{{ 'abc'|first|upper }} {{ words|sort|first }} {{ words|map('length')|max }} {{ words|map('first')|map('upper')|join }}
{% for role, group in messages|groupby('role') %}{{ role }}{{ group|length }} {% endfor %}
{% set parts = 'a</think>b'.split('</think>') %}{{ parts|length }}{{ parts[-1].lstrip('\\n') }}
{% if '</think>' in 'x</think>y' %}{{ 'x</think>y'.split('</think>')[0].rstrip('\\n').split('<think>')[-1] }}{% endif %}
{{ {'type': 'function', 'function': {'name': 'f', 'parameters': {'x': [1, 2.5, none]}}} | tojson }}
{% for tool in [{'name': 'f', 'args': {'a': 1, 'b': 'x'}}] %}{{ tool.name }}({% for k, v in tool.args|items %}{{ k }}={{ v|tojson }}{{ ', ' if not loop.last }}{% endfor %}){% endfor %}
{{ 'yes' if messages[0]['role'] == 'user' and messages|length >= 2 else 'no' }} {{ messages[-1].content|default('', true)|trim }}
{% set loop_messages = messages[1:] if messages[0].role == 'system' else messages %}{{ loop_messages|length }}
{%- if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ add_generation_prompt }}
{{ (n|string + 'x') * 2 }} {{ n ~ 'x' }} {{ n|string|int + 1 }} {{ [n, f, yes, none]|join(',') }} {{ [n, f]|map('string')|list }}
{{ 'a,b;c'.replace(';', ',').split(',')|map('upper')|join('+') }} {{ 'x'.join(['a', 'b'])|length }}
{% set d = dict(a=[1, 2], b=namespace(z=3)) %}{{ d.a[1] }}{{ d.b.z }}{{ d['a']|sum }}
{{ range(3)|map('string')|join(',') }} {{ range(3)|sum }} {{ (range(3)|list)[1:] }} {{ range(3) == range(3) }}
{{ [1, 2, 3]|select('in', [2, 3])|list }} {{ words|select('lower')|list }} {{ words|reject('in', ['fig'])|list }} {{ list|select('divisibleby', 3)|list }}
{{ 'Ünïcödé'|length }} {{ 'Ünïcödé'|upper }} {{ 'ÜNÏ'|lower }} {{ '日本語'|reverse }} {{ '日本語'[1] }} {{ 'emoji 😀'|length }} {{ '😀'|tojson(ensure_ascii=true) }} {{ 'İ'|lower|length }}
{{ 1.1 + 2.2 }} {{ 1e15 + 0.5 }} {{ 5 // 0.3 }} {{ 1e308 * 10 }} {{ -1e308 * 10 }} {{ 0.1 * 3 }} {{ 3.0 }} {{ 3.14|int }} {{ 1/3 }}
{{ loop is defined }} {{ caller is defined }} {{ varargs is defined }}
{{ namespace(a=1) is mapping }} {{ joiner() is callable }} {{ cycler(1).current }} {{ dict is callable }}
'''


def cases_of(section):
    """A case a line; a line of nothing but outputs is a case for each."""
    for line in section.strip('\n').split('\n'):
        if line.startswith('{{') and '{%' not in line:
            parts = line.split('}} {{')
            for i, part in enumerate(parts):
                yield ('{{' if i else '') + part + ('}}' if i + 1 < len(parts) else '')
        elif line:
            yield line


# Templates of several lines that a list of lines cannot hold.
WHOLE = [
    '{% macro render(m) -%}\n<{{ m.role }}>{{ m.content if m.content is string else "" }}\n{%- endmacro %}\n{% for m in messages %}{{ render(m) }}{% endfor %}',
    '{{ "<p>Hi\n <b>there</b></p>"|striptags }}', '{% if yes %}', '{% set s = "a\\\nb" %}{{ s }}',
    '{% for t in tree recursive %}\n{{ "  " * loop.depth0 }}- {{ t.v }}\n{{ loop(t.sub) if t.sub }}\n{%- endfor %}',
    '{%- for m in messages %}\n    {%- if m.role == "user" %}\n        {{- "U:" + m.content }}\n    {%- elif m.content %}\n        {{- "O:" ~ m.content|trim }}\n    {%- endif %}\n{%- endfor %}\n{%- if tools %}\n    {{- "T" }}\n{%- endif %}',
    '{%- set ns = namespace(last=messages|length - 1) %}\n{%- for m in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if m.role == "user" %}{%- set ns.last = index %}{%- endif %}\n{%- endfor %}\n{{ ns.last }}',
    '  {% if yes %}\n  x\n  {% endif %}\ny\n', 'a\n{{- \' b \' -}}\nc\n', '{% if yes %}\n\ntwo{% endif %}',
    '\t{% if yes %}tab{% endif %}\n', '{# a\nb #}\nc', '{%+ if yes %} x{% endif +%}\ny',
    '{%- if yes -%}\n   x   \n{%- endif -%}\n   y', 'line\r\n{% if yes %}\r\nx\r\n{% endif %}\r\n',
    '{% raw %}\n {{ a }}\n{% endraw %}\nb', '  {% raw %}\ny\n  {% endraw %}\nz',
    'x  {%- raw -%}  a  {%- endraw -%}  y', '{% set x %}\n a\n{% endset %}\n[{{ x }}]',
    '{% macro m(a) -%}\n  <{{ a }}>\n{%- endmacro %}\n{{ m(1) }}\n{{ m(2) }}',
    '{% filter indent(2) %}\na\nb\n{% endfilter %}\n', '{{ "a\nb" }}', '{% for i in list %}\n{{ i }}\n{% endfor %}\n\n\nend\n\n',
    '{{ text }}\n\n', '\n\n{{ text }}', '{{\n  text\n  |upper\n}}', '{% set a = {\n "x": 1,\n "y": [1,\n 2],\n} %}{{ a }}',
]


def main():
    cases = []
    for section in (FILTERS, TESTS, EXPRESSIONS, METHODS, STATEMENTS):
        cases += cases_of(section)
    cases += WHOLE
    out = []
    for template in cases:
        out.append({'template': template, 'expected': regenerate.render(template, CONTEXT)})
    regenerate.write(os.path.join(HERE, 'snippets.json'),
                     [{'context': CONTEXT}, *out])
    refused = sum(case['expected'] is None for case in out)
    print(f'{len(out)} snippets, {refused} of which Jinja2 refuses')


if __name__ == '__main__':
    main()
