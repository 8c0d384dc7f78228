"""Writes constructs.json: templates of this file and of lines.txt, and what transformers makes of them.

    python make.py > constructs.json        # wants transformers and jinja2
"""
import json
import pathlib
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"b": 1.5, "a": "é"}}}
CHAT = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": "hi thére <b>'q'\"&"},
    {"role": "assistant", "content": "<think>\nso\n</think>\n\nyo"},
    {"role": "user", "content": " 5 x\n"},
]
TOOLED = [
    {"role": "user", "content": "add"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "It's <a & b>", "parameters": {
    "type": "object", "properties": {"b": {"type": "number"}, "a": {"type": "string", "enum": ["é", "\n"]}}, "required": ["b"]}}}]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

# Of one chat, of a chat with calls and tools.
PLAIN = r"""
{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
{{- bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 1) %}{{ 'odd' }}{% endif %}[{{ m.role | upper }}] {{ m.content | trim }}{{ eos_token if m.role == 'assistant' }}{% endfor %}
{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ sep_token }}|{{ mask_token is defined }}
{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}
{% for m in messages %}{%- generation -%}  {{ m.content }} {%- set x = 1 %} {%- endgeneration %} {{ x is defined }}{% endfor %}
{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}
{% for m in messages %}{{ m | tojson }}{% endfor %}
{% for m in messages %}{{ m.content | tojson }}{% endfor %}
{{ messages[1] | tojson(indent=2) }}{{ [] | tojson(indent=2) }}{{ {} | tojson(indent=4) }}
{{ messages[1].content | tojson(ensure_ascii=False) }}{{ messages[1].content | tojson(ensure_ascii=True) }}
{{ {'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':')) }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}{{ [1, 2] | tojson(indent=1, separators=(', ', '=')) }}
{{ [1.0, 0.5, 1e20, 1e-7, true, none, 'a/b\t\\'] | tojson }}{{ 'x' | tojson ~ 1 | tojson }}
{% set ns = namespace(n=0, last='') %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}{% set ns.last = m.role %}{{ ns.n ~ m.content }}{% endfor %}{{ ns.last }}
{{ messages[1:] | length }}{{ messages[-1]['content'] }}{{ messages[:2][0].role }}{{ messages[1:-1] | map(attribute='role') | join(',') }}{{ messages[::2] | length }}
{% for m in messages %}{{ m.content.split('</think>')[-1].lstrip('\n') }}|{{ m.content.split()[0] }}|{{ m.content.split(' ', 1) | length }}{% endfor %}
{{ 'a,b,c'.rsplit(',', 1) | join('|') }}{{ ' a  b '.rsplit() | join('|') }}{{ 'a--b'.split('--') | last }}{{ 'abc'.partition('b') | join('.') }}{{ 'abcb'.rpartition('b') | join('.') }}
{{ 'Ab c'.upper() }}{{ 'Ab c'.lower() }}{{ "it's a-b 2c".title() }}{{ 'ab CD'.capitalize() }}{{ 'aBc'.swapcase() }}{{ 'x'.center(4) }}|{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3) }}
{{ 'xxhixx'.strip('x') }}{{ 'a\n\n'.rstrip('\n') }}{{ '  a'.lstrip() }}{{ 'abab'.replace('a', 'c') }}{{ 'abab'.replace('a', 'c', 1) }}{{ 'a\nb'.splitlines() | length }}
{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'bc')) }}{{ 'abcabc'.count('bc') }}{{ 'thére'.find('r') }}{{ 'abc'.rfind('z') }}{{ 'prefix-a'.removeprefix('prefix-') }}{{ 'a.txt'.removesuffix('.txt') }}{{ ','.join(['a', 'b']) }}
{{ 'a1'.isalnum() }}{{ ''.isdigit() }}{{ '12'.isdigit() }}{{ 'hi there'.islower() }}{{ 'HI 1'.isupper() }}{{ ' '.isspace() }}{{ 'é'.isalpha() }}
{% for m in messages %}{{ m.content is string }}{{ m is mapping }}{{ m.name is defined }}{{ m.content is iterable }}{{ m.content is sequence }}{{ m is sequence }}{{ messages is sequence }}{{ none is none }}{% endfor %}
{{ 1 is number }}{{ 1.5 is float }}{{ true is boolean }}{{ 1 is integer }}{{ true is number }}{{ 'a' is number }}{{ 3 is odd }}{{ 4 is divisibleby 2 }}{{ 1 is sameas 1 }}{{ 'a' is in ['a'] }}{{ x is undefined }}{{ 2 is gt 1 }}
{% if tools is not none and tools is defined %}T{% endif %}{% if not tools %}N{% endif %}{% if documents %}D{% endif %}{{ tools is defined }}{{ documents is none }}
{%- if tools is defined and tools != none %}X{%- endif %}{{ messages[0].content }}
{% for m in messages %}{% if m.tool_calls %}C{% elif 'tool_calls' in m %}D{% else %}{{ m.content }}{% endif %}{% endfor %}
{% for m in messages %}{{ m.get('name', 'nobody') }}{{ m.get('x') }}{{ m.get('role') }}{% endfor %}
{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0].keys() | list }}{{ messages[0].values() | list | length }}{% for k in messages[0] %}{{ k }}{% endfor %}{{ messages[0] | items | list | length }}
{{ raise_exception('no') }}
{{ messages[0].nothing.more }}
{% if messages[9] is defined %}A{% else %}B{% endif %}{{ messages[0].nothing }}{{ nothing | default('d') }}{{ '' | default('e', true) }}{{ nothing | length }}{{ nothing | count }}{{ nothing | upper }}{{ nothing | trim }}{{ nothing | list }}{{ nothing | join(',') }}
{% macro say(m, loud=false) %}{{ m.content | upper if loud else m.content }}!{% endmacro %}{% for m in messages %}{{ say(m) }}{{ say(m, loud=true) }}{% endfor %}
{% macro all(items) %}{% for i in items %}{{ i }}{{ caller() if caller else '' }}{% endfor %}{% endmacro %}{% call all([1, 2]) %}-{% endcall %}
@{% for m in messages %}\n    {% if true %}\n  {{ m.content }}\n    {% endif %}\n{% endfor %}\n
@a\n  {#- note -#}  b\n{# note #}\n   {%- if true -%}  c  {%+ endif %}\n  {%+ if true %}d{% endif %}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }}{{ messages | rejectattr('role', 'eq', 'user') | list | length }}{{ messages | selectattr('name', 'defined') | list }}
{% set a = [1] + [2] %}{{ a | length }}{{ 'i' in messages[1].content }}{{ 'z' not in 'a' }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 3 }}{{ 7 / 2 }}{{ 4 / 2 }}{{ -7 // 2 }}{{ -7 % 4 }}{{ loop is defined }}
{{ (messages[0].role == 'user') and 'y' or 'n' }}{{ not messages }}{{ messages[1].content | default('') | upper | trim }}{{ 'x' if messages | length > 5 }}{{ 1 < 2 < 3 }}{{ 'a' < 'b' }}
{{ true }} {{ none }} {{ 1.0 }} {{ [1, 'a', none, true, "it's"] }} {{ {'a': 1, 'b': [2.5]} }} {{ (1, 2) | list }} {{ 1e100 }} {{ 0.1 + 0.2 }} {{ 'a\n' }}
{{ 'é<｜User｜>' + messages[1].content }}{{ 'tab\tquote\'' }}{{ "\u00e9" }}
{% for m in messages %}{{ loop.index0 }}{{ loop.index }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem is defined }}{{ (loop.nextitem or {}).role }}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% else %}none{% endfor %}{% for m in [] %}{% else %}empty{% endfor %}
{{ messages | first | length > 0 }}{{ (messages | last).content }}{{ [1, 1, 2] | unique | list }}{{ [3, 1, 2] | sort }}{{ [3, 1] | sort(reverse=true) }}{{ [1, 2] | sum }}{{ [1, 2] | max }}
{% set m = {'a': 1} %}{% set m = dict(m, b=2) %}{{ m.b }}{{ m['a'] }}{{ m | length }}{% for k, v in m | dictsort %}{{ k }}{{ v }}{% endfor %}{{ 'a' in m }}
{% for i in range(0, 3) %}{{ i }}{% endfor %}{% for i in range(3, 0, -1) %}{{ i }}{% endfor %}{{ range(4) | list }}
{{ 'ab' * 3 }}{{ messages[1].content[:1] }}{{ messages[1].content[-1] }}{{ 'abcdef'[1:4] }}{{ 'abc'[::-1] }}{{ 'abc' | reverse }}{{ [1, 2] | reverse | list }}
{{ '%s-%02d' | format('a', 3) }}{{ '{}-{}'.format(1, 'b') }}{{ '{:>4}'.format('a') }}
{{ 'a b' | replace(' ', '_') }}{{ 'abc' | first }}{{ ' x ' | trim }}{{ 'a\nb' | indent(2) }}{{ 'a\nb' | indent(2, true) }}{{ 'hello' | length }}{{ 'a b' | wordcount }}{{ 'abcdef' | truncate(5) }}
{{ '3' | int + 1 }}{{ '2.5' | float }}{{ 'x' | int }}{{ 'x' | int(7) }}{{ 'x' | float }}{{ ' 12 ' | int }}{{ '-2.9' | int }}{{ none | int }}{{ 'ff' | int(base=16) }}{{ 3.7 | int }}{{ 3.14159 | round(2) }}{{ -1 | abs }}{{ [1] | string }}{{ 'é' | list }}{{ 5 | string + 'a' }}
{% set text %}in {{ messages[0].role }}{% endset %}{{ text | upper }}{% filter upper %}abc{% endfilter %}{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}
{% set a, b = [1, 2] %}{{ a }}{{ b }}{% for a, b in [[1, 2], [3, 4]] %}{{ a * b }}{% endfor %}{% for x in [[1, 2]] %}{{ x[0] }}{{ x[1] }}{% endfor %}
{% raw %}{{ not run }}{% generation %}{% endraw %}{{ '{% generation %}' }}
{{ messages | map('tojson') | join('\n') }}{{ ['a', 'b'] | map('upper') | list }}{{ messages | map(attribute='role') | unique | join }}{{ messages | groupby('role') | list | length }}
{{ messages | batch(2) | list | length }}{{ [1, 2, 3] | slice(2) | list | length }}{{ [1, 2, 3] | select('odd') | list }}{{ [0, 1] | select | list }}{{ [0, 1] | reject | list }}
{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}{% for message in loop_messages %}{% if loop.index0 == 0 and system_message is defined %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{{ content | trim }}{% endfor %}
{%- for message in messages | reverse %}{{ message.role }}{% endfor %}{{ (messages | reverse | list)[0].role }}{{ messages | map(attribute='content') | list | last | trim }}
{{ messages[0]['role'] ~ none ~ true ~ 1.0 }}{{ 'a' ~ 1 }}{{ "a" "b" }}{{ 1 == 1.0 }}{{ 'a' == 'a' }}{{ [1] == [1] }}{{ none == false }}
{% for m in messages recursive %}{{ m.role }}{{ loop.depth }}{% endfor %}{{ [1, [2, 3]] | tojson }}{{ {'a': {'b': {}}} }}{{ ({'a': {'b': 1}})['a']['b'] }}
{{ joiner is defined }}{{ namespace is defined }}{% set sep = joiner(', ') %}{{ sep() }}a{{ sep() }}b{% set c = cycler('x', 'y') %}{{ c.next() }}{{ c.next() }}
{{ messages | length | string + '!' }}{{ 'A' | lower }}{{ 'a' | capitalize }}{{ '<b>' | e }}{{ '<b>' | safe }}{{ '<b>' | escape }}
{{ 'x' is callable }}{{ raise_exception is callable }}{{ 'abc' is lower }}{{ messages is not string and messages is iterable }}{{ 'a' is eq 'a' }}{{ none is not none }}
{% set parts = messages[2].content.split('</think>') %}{{ parts[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}|{{ parts[-1].lstrip('\n') }}
{{ '%s: %s' % (messages[0].role, messages[0].content | trim) }}{{ '%s' % messages[0].role }}{{ '%s' % (messages | length) }}{{ '%.2f%%' % (0.5 * 100) }}{{ '%s' % 'a' if true else 'b' }}{{ ('%s' % 'a', '%s' % 'b') }}{{ '%s' % (messages[0].role == 'system') }}{{ '%d/%d' % (1 + 1, 2 * 3) }}
{{ '%s %d' % ('a', 3.7) }}|{{ '%5.2f|%-5s|%05d|%x|%X|%o|%e|%g|%c|%%|%r|%+d|% d|%i|%#x' % (3.14159, 'ab', 42, 255, 255, 8, 12345.678, 0.0001, 'z', 'q', 5, 5, 7, 255) }}{{ '%(a)s-%(b)03d' % {'a': 1, 'b': 2} }}{{ '%*d' % (5, 3) }}{{ '%.3s' % 'abcdef' }}{{ '%.0f' % 2.5 }}{{ '%f' % 1 }}{{ '%s' % nothing }}|
{{ '%s' % [1, 2] }}{{ '%s' % {'a': 1} }}{{ '%s' % none }}{{ '%s' % true }}{{ '%d' % true }}{{ '%s' % 1.0 }}{{ '%s' % ((1, 2),) }}{{ '%s' % (1,) }}{{ 'abc' % () }}{{ 'abc' % {} }}{{ 'abc' % [] }}{{ '%s' | format(none) }}{{ '%(a)s' | format(a=1) }}{{ '%s %s' | format('a', true) }}
{{ '%s' % 'a' ~ 'b' }}{{ 'x' + '%s' % 'a' + 'b' }}{{ '%s' % 'a' | upper }}{{ ('%s' % 'a') | upper }}{{ "\"%s\"" % "q" }}{{ "{%s}" % 1 }}{{ '}}%s' % 2 }}{{ {'a': '%s' % {'b': 1}}['a'] }}{% set f = '%s: %s' %}{{ f % (messages[0].role, 'x') }}{{ messages[0].role % () }}
{{ '%s%s' % 'a' }}
{{ '%d' % 'a' }}
{{ 'abc' % 1 }}
{{ 7 % -4 }}{{ -7 % 4 }}{{ 7.5 % 2 }}{{ -7.5 % 2 }}{{ 7 // -2 }}{{ -7 // 2 }}{{ 7.5 // 2 }}{{ -7.5 // 2 }}{{ 2 ** 3 ** 2 }}{{ -2 ** 2 }}{{ 10 % 3 * 2 }}{{ 2 * 10 % 3 }}{{ 10 - 7 % 4 }}{{ 100 // 7 // 2 }}{{ 2 + 3 // 2 * 4 % 5 }}{{ 3 * (2 + 5) % 4 }}{{ true % 2 }}{{ +3 }}
{{ 1 % 0 }}
{{ messages | length % 3 + 1 }}{% set n = 5 %}{{ 'odd' if n % 2 == 1 else 'even' }}{{ n % 2 ~ n // 2 }}{{ not n % 5 }}{% if n % 2 %}T{% endif %}{{ [n % 2, n % 3] }}{{ {'a': n % 2} }}{{ 'abc'[n % 2:] }}{% for i in range(n % 3) if i % 2 == 0 %}{{ i }}{% endfor %}{% with a = 7 % 4 %}{{ a }}{% endwith %}
{{ (1, 2) }}{{ () }}{{ (1,) }}{{ ((1, 2), 'a') }}{{ [(1, 2)] }}{{ {'a': (1, 2)} }}{{ 1, 2 }}{% set t = 1, 'b' %}{{ t }}{{ t[1] }}{{ t | length }}{{ t is sequence }}{{ 1 in t }}{{ t | tojson }}{{ t | list }}{{ t == (1, 'b') }}{{ t | join('-') }}{{ t ~ 'x' }}{{ t is string }}{% for x in t %}{{ x }}{% endfor %}{{ (('a', 'b')) }}{{ (('a')) }}
{% for (a, b) in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}{% set (a, b) = (1, 2) %}{{ a }}{{ b }}{% set a, b = 'x', 'y' %}{{ a }}{{ b }}{% for x in 'a', 'b' %}{{ x }}{% endfor %}{% macro m(a, b=(1, 2)) %}{{ a }}{{ b }}{% endmacro %}{{ m((1, 2)) }}{{ m(('a'), b=()) }}{% if () %}T{% else %}F{% endif %}
{{ {'a': 1}.items() | list }}{{ {'a': 1} | items | list }}{{ {'b': 1, 'a': 2} | dictsort }}{{ {'b': 1, 'a': 2} | dictsort(by='value', reverse=true) }}{{ 'abc'.partition('b') }}{{ 'abc'.rpartition('b') }}{{ {'b': 2, 'a': 1}.items() | sort }}
{% set s = {'items': {'type': 'x'}, 'type': 'array'} %}{% if s.items %}Y{% endif %}{{ s['items'].type }}{{ s.items is defined }}{{ s.items is mapping }}{{ s.items.type is defined }}{% for k, v in s.items() %}{{ k }}{% endfor %}{{ s.keys() | list }}{{ s.get('items') }}{% set ns = namespace(items=[1]) %}{% set ns.items = ns.items + [2] %}{{ ns.items }}
{% set ns = namespace(l=[], found=false) %}{% for m in messages %}{% set ns.l = ns.l + [m.role] %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.l }}{{ ns.found }}{{ ns is mapping }}{{ ns.no is defined }}
{% set l = [] %}{% for m in messages %}{% set _ = l.append(m.role) %}{% endfor %}{{ l }}
{% set ns = namespace(l=[]) %}{{ ns.l.append(1) or '' }}
{% set d = {} %}{% set _ = d.update({'a': 1}) %}{{ d }}
{% do messages.append(1) %}
{{ messages[0].pop('role') }}
{% include 'x' %}
{% include 'default' ignore missing %}ok
{% import 'default' as d %}
{% from 'default' import d %}
{% extends 'default' %}
{% if false %}{% include 'x' %}{% endif %}fine{% block a %}{{ messages | length }}{% endblock %}
{% for i in none %}x{% endfor %}
{% for i in messages[0].name %}x{% else %}none{% endfor %}{{ none is iterable }}{{ nothing is iterable }}{{ 1 is iterable }}{{ {} is iterable }}{{ 'a' is iterable }}
{{ 'x' ~ [1, 'a'] ~ {'a': none} ~ none ~ true ~ nothing }}{{ [[1, 'a'], {'b': 'c'}] | join(' ') }}{{ [{'a': 1}, {'a': {'b': 2}}] | join(',', attribute='a') }}{{ [1, 'a', none] | join(' ') }}{{ 'abc' | join('-') }}{{ messages | join('|', 'role') }}
{{ 'a\n\nb\n' | indent(2) }}|{{ 'a\n\nb' | indent(2, first=true, blank=true) }}|{{ 'a\nb' | indent('>>') }}|{{ 'a\nb' | indent(width=3) }}|{{ 'a\nb\n' | indent }}|{{ 'a\nb' | indent(4, true) }}|{{ {'a': [1]} | tojson(indent=2) | indent(2) }}
{{ '<a href="x">&\'' | e }}{{ '<' | safe | e }}{{ '<a>' | escape | length }}{% autoescape true %}{{ '<"' }}{{ none }}{{ ['<'] }}{{ '<' | safe }}{% endautoescape %}{{ '<' }}
{{ 2.5 | round }}{{ 3.5 | round }}{{ 3 | round }}{{ 2.567 | round(1) }}{{ 2.567 | round(1, 'floor') }}{{ 42.55 | round(1, 'ceil') }}{{ true | int }}{{ true | float }}{{ '0x1f' | int(base=16) }}{{ {none: 1, true: 2, 3: 3} | tojson }}
{{ '\U0001F600\u00e9\\U0001F600' }}{{ "\x41\t\101" }}{{ debug is defined }}{{ cycler is defined }}{{ tuple is defined }}{{ len is defined }}
{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}>{{ loop.nextitem.role if loop.nextitem is defined else 'end' }};{{ loop.changed(m.role == 'user') }}{{ loop.revindex0 }}{% set outer = loop %}{% for c in 'ab' %}{{ outer.index }}{{ loop.index }}{% endfor %}{% endfor %}
{% for n in [{'c': [{'c': []}, {'c': []}]}] recursive %}<{{ loop.depth }}{{ loop.depth0 }}{{ loop(n.c) }}>{% endfor %}{% macro f(a) %}{{ a }}{% if a > 0 %}{{ f(a - 1) }}{% endif %}{% endmacro %}{{ f(3) }}{{ f(1) ~ 'x' }}{{ f(1) == '10' }}
{% macro wrap(n, tag='b') %}<{{ tag }}>{{ caller(n % 2, 'c') }}</{{ tag }}>{% endmacro %}{% call(x, y) wrap(5) %}{{ x }}{{ y }}{% endcall %}{% call(x, y) wrap(4, tag='i') %}{{ x }}{% endcall %}{% set y | trim | upper %} a{{ bos_token }} {% endset %}{{ y }}
@{%- if true %}\n  a\n{%- else %}\n  b\n{%- endif %}\n\n  {{- 'c' }}\n  {% set x = 1 %}\n  {{ x }}\n  {%- for i in [1, 2] -%}\n  {{ i }}\n  {%- endfor -%}\n end\n
@a\n{% raw %}\n  {{ x }}\n{% endraw %}\n g{% raw %}\nq{% endraw %}\nr {%- raw -%} z {%- endraw %}\n{%+ if true +%}\n a\n{%+ endif +%}\n
{{ strftime_now('%Y') | length }}{% set date = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}{{ date | length }}{% if not date_string is defined %}D{% endif %}{{ 'a' if false }}|{{ ('a' if false) is defined }}|{{ ('a' if false) ~ 'b' }}
{{ 'a' + nothing }}
{{ 'a' + 1 }}
{{ 'a'.nope() }}
{{ 'a' | nope }}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages | length - 1) %}{%- for message in messages[::-1] %}{%- set index = (messages | length - 1) - loop.index0 %}{%- if ns.multi_step_tool and message.role == "user" and message.content is string and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}{%- for message in messages %}{%- set content = message.content if message.content is string else '' %}{%- set reasoning_content = '' %}{%- if '</think>' in content %}{%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}{%- if loop.last or (not loop.last and reasoning_content) %}{{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}{%- else %}{{- '<|im_start|>' + message.role + '\n' + content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}{{ ns.last_query_index }}
{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}{%- if not tools is defined %}{%- set tools = none %}{%- endif %}{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}{%- else %}{%- set system_message = "" %}{%- endif %}{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}{%- if builtin_tools is defined or tools is not none %}{{- "Environment: ipython\n" }}{%- endif %}{{- "Today Date: " + date_string + "\n\n" + system_message + "<|eot_id|>" }}{%- for message in messages %}{%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{%- endif %}{%- endfor %}
{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}{%- set ns = namespace() %}{%- set ns.index = 0 %}{%- for message in loop_messages %}{%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}{%- if (message["role"] == "user") != (ns.index % 2 == 0) %}{{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}{%- endif %}{%- set ns.index = ns.index + 1 %}{%- endif %}{%- endfor %}{{- bos_token }}{%- for message in loop_messages %}{%- if message["role"] == "user" %}{%- if loop.last and system_message is defined %}{{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}{%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}{%- elif message["role"] == "assistant" %}{{- " " + message["content"] | trim + eos_token }}{%- endif %}{%- endfor %}{{ user_messages | length }}
{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- if messages[0]['content'] is string -%}{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}{%- set loop_messages = messages[1:] -%}{%- endif -%}{%- for message in loop_messages -%}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}{%- endif -%}{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- elif message['content'] is iterable -%}{%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}{%- endif -%}{{ '<end_of_turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
@{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true) %}{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\n\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}\n{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\n'}}{% endif %}
@{%- macro visible_text(content) -%}\n    {%- if content is string -%}\n        {{- content }}\n    {%- elif content is iterable and content is not mapping -%}\n        {%- for item in content -%}\n            {%- if item is mapping and item.type == 'text' -%}\n                {{- item.text }}\n            {%- elif item is string -%}\n                {{- item }}\n            {%- endif -%}\n        {%- endfor -%}\n    {%- else -%}\n        {{- content }}\n    {%- endif -%}\n{%- endmacro -%}\n[gMASK]<sop>\n{%- set ns = namespace(last_user_index=-1) %}\n{%- for m in messages %}\n    {%- if m.role == 'user' %}\n        {% set ns.last_user_index = loop.index0 -%}\n    {%- endif %}\n{%- endfor %}\n{% for m in messages %}\n{%- if m.role == 'user' -%}<|user|>\n{{ visible_text(m.content) }}\n{{- '/nothink' if (enable_thinking is defined and not enable_thinking and not visible_text(m.content).endswith('/nothink')) else '' -}}\n{%- elif m.role == 'assistant' -%}\n<|assistant|>\n{%- if '</think>' in visible_text(m.content) and loop.index0 > ns.last_user_index -%}T{%- endif -%}\n{{ visible_text(m.content).strip() }}\n{%- endif -%}\n{%- endfor -%}{{ ns.last_user_index }}\n
@{%- if messages[0]['role'] == 'system' %}\n{%- set system_message = messages[0]['content'] %}\n{%- set loop_messages = messages[1:] %}\n{%- else %}\n{%- set system_message = "Knowledge Cutoff Date: April 2024.\nToday's Date: " + strftime_now('%B %d, %Y') + "." %}\n{%- if controls and 'length' in controls and controls['length'] is not none %}\n {%- set system_message = system_message + controls['length'] %}\n{%- endif %}\n{%- set loop_messages = messages %}\n{%- endif %}\n{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\n' }}\n{%- for message in loop_messages %}\n{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\n' }}\n{%- if loop.last and add_generation_prompt %}\n{{- '<|start_of_role|>assistant' }}\n{%- if controls %}{{- ' ' + controls | tojson }}{%- endif %}\n{{- '<|end_of_role|>' }}\n{%- endif %}\n{%- endfor %}
{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}{{ message is defined }}
""".strip("\n").split("\n")
WITH_TOOLS = r"""
{% for t in tools %}{{ t | tojson }}{{ t | tojson(indent=4) }}{{ t.function.name }}{% endfor %}
{%- for m in messages %}{% if m.role == 'tool' %}<r>{{ m.content }}</r>{% elif m.tool_calls %}{% for c in m.tool_calls %}{% if c.function is defined %}{% set c = c.function %}{% endif %}<c>{"name": "{{ c.name }}", "arguments": {{ c.arguments | tojson }}}</c>{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}
{% for m in messages %}{{ m.content }};{% if m.content is none %}none{% endif %}{% if m.content is defined and m.content %}yes{% endif %}{% if 'tool_calls' in m and m.tool_calls is iterable %}{{ m.tool_calls | length }}{% endif %}{% endfor %}
{% for m in messages %}{% for c in m.tool_calls or [] %}{% for k, v in c.function.arguments | items %}{{ k }}={{ v if v is string else v | tojson }}{% endfor %}{% for k, v in c.function.arguments.items() %}{{ k }}{{ v }}{% endfor %}{% endfor %}{% endfor %}
{{ messages | tojson }}{{ messages }}{{ tools is iterable }}{{ tools | length }}{{ tools[0].function.parameters.properties }}
{% macro type(p) %}{% if p.enum %}{{ p.enum | map('tojson') | join(' | ') }}{% else %}{{ {'number': 'float', 'string': 'str'}[p.type] }}{% endif %}{% endmacro %}{% for t in tools %}{% for n, p in t.function.parameters.properties.items() %}{{ n }}{{ '?' if n not in t.function.parameters.required }}: {{ type(p) }}{{ ', ' if not loop.last }}{% endfor %}{% endfor %}
{{ extra }}{{ enable_thinking is defined and enable_thinking is false }}{{ builtin_tools is not defined }}
{%- macro json_to_python_type(json_spec) %}{%- set basic_type_map = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"} %}{%- if basic_type_map[json_spec.type] is defined %}{{- basic_type_map[json_spec.type] }}{%- elif json_spec.type == "array" %}{{- "list[" + json_to_python_type(json_spec['items']) + "]" }}{%- elif json_spec.type == "object" %}{%- if json_spec.additionalProperties is defined %}{{- "dict[str, " + json_to_python_type(json_spec.additionalProperties) + ']' }}{%- else %}{{- "dict" }}{%- endif %}{%- elif json_spec.type is iterable %}{{- "Union[" }}{%- for t in json_spec.type %}{{- json_to_python_type({"type": t}) }}{%- if not loop.last %}{{- "," }}{%- endif %}{%- endfor %}{{- "]" }}{%- else %}{{- "Any" }}{%- endif %}{%- endmacro %}{%- for tool in tools %}{%- set t = tool.function %}def {{ t.name }}({%- for n, p in t.parameters.properties.items() %}{{ n }}: {{ json_to_python_type(p) }}{% if not loop.last %}, {% endif %}{%- endfor %}) {{ json_to_python_type({'type': 'array', 'items': {'type': 'object', 'additionalProperties': {'type': 'integer'}}}) }}{{ json_to_python_type({'type': ['string', 'number']}) }}{% endfor %}
{%- for tool in tools %}{%- set tool = tool.function %}{{- '{"type": "function", "function": {' }}{%- for key, val in tool.items() if key != "return" %}{%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val | tojson }}{%- endif %}{%- if not loop.last %}{{- ", " }}{%- endif %}{%- endfor %}{{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}{%- endfor %}
{%- for message in messages %}{%- if message.tool_calls is defined and message.tool_calls is not none %}{{- "[TOOL_CALLS] [" }}{%- for tool_call in message.tool_calls %}{%- set out = tool_call.function | tojson %}{{- out[:-1] }}{%- if not tool_call.id is defined or tool_call.id | length != 2 %}{{- raise_exception("Tool call IDs should be alphanumeric strings with length 2!") }}{%- endif %}{{- ', "id": "' + tool_call.id + '"}' }}{%- endfor %}{{- "]" + eos_token }}{%- elif message.role == "tool" %}{{- '[TOOL_RESULTS] {"content": ' + message.content | string + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}{%- endif %}{%- endfor %}
{%- for message in messages %}{%- if message.role == "tool" %}{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}{%- if loop.last or messages[loop.index0 + 1].role != "tool" %}{{- '<|im_end|>\n' }}{%- endif %}{%- elif message.tool_calls %}{%- for tool_call in message.tool_calls %}{%- if (loop.first and message.content) or not loop.first %}{{- '\n' }}{%- endif %}{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}{{- '<tool_call>\n{"name": "' ~ tool_call.name ~ '", "arguments": ' }}{%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}{{- '}\n</tool_call>' }}{%- endfor %}{%- endif %}{%- endfor %}
{%- for m in messages if m.tool_calls %}{% for tc in m.tool_calls %}<tool_call>{{ tc.function.name }}{% set _args = tc.function.arguments %}{% for k, v in _args.items() %}<arg_key>{{ k }}</arg_key><arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>{% endfor %}</tool_call>{{ '%s(%s)' % (tc.function.name, _args | dictsort | map('join', '=') | join(', ')) }}{{ _args | items | list }}{{ _args }}{% endfor %}{% endfor %}
{%- set tool_definitions = tools | map(attribute='function') | list %}{% for t in tool_definitions %}{{ t | tojson(indent=2) | indent(4, first=true) }}{{ t.parameters.required | join(', ') }}{{ t.parameters.properties | length }}{{ t.parameters.properties.keys() | sort | join(',') }}{{ t.name | replace('_', ' ') | title }}{% for n, p in t.parameters.properties | dictsort %}{{ '%-4s%s' % (n, p.type) }}{{ ' (required)' if n in t.parameters.required else '' }}{% if p.enum %}{{ p.enum | map('tojson') | join('/') }}{% endif %}{% endfor %}{% endfor %}{{ tools | selectattr('type', 'equalto', 'function') | map(attribute='function.name') | join }}
""".strip("\n").split("\n")


def case(template, tooled):
    chat = {"messages": TOOLED if tooled else CHAT, "tools": TOOLS if tooled else None}
    further = {"extra": "more", "enable_thinking": False} if tooled else {}
    context = {"documents": None, "add_generation_prompt": True, **SPECIAL, **further, **chat}
    try:
        return {"template": template, "tooled": tooled, "text": _compile_jinja_template(template).render(context)}
    except Exception as error:
        print(f"{template}\n  {type(error).__name__}: {error}", file=sys.stderr)
        return {"template": template, "tooled": tooled, "text": None}


# Of a line that begins with an @, \\n and \\r are ends of lines.
real = lambda line: line[1:].replace("\\n", "\n").replace("\\r", "\r") if line.startswith("@") else line
small = (pathlib.Path(__file__).parent / "lines.txt").read_text().splitlines()
cases = [case(real(line), False) for line in PLAIN + [line for line in small if "tools" not in line]]
cases += [case(real(line), True) for line in WITH_TOOLS + [line for line in small if "tools" in line]]
chats = {"special": SPECIAL, "plain": CHAT, "tooled": TOOLED, "tools": TOOLS, "further": {"extra": "more", "enable_thinking": False}}
text = lambda of: json.dumps(of, ensure_ascii=False)
print("{" + ",\n".join(f"{text(name)}: {text(of)}" for name, of in chats.items()) + ',\n"cases": [')
print(",\n".join(map(text, cases)) + "\n]}")
