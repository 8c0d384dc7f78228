"""Writes constructs.json: templates of this file, and what transformers makes of them.

    python make.py > constructs.json        # wants transformers and jinja2
"""
import json
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
""".strip("\n").split("\n")
WITH_TOOLS = r"""
{% for t in tools %}{{ t | tojson }}{{ t | tojson(indent=4) }}{{ t.function.name }}{% endfor %}
{%- for m in messages %}{% if m.role == 'tool' %}<r>{{ m.content }}</r>{% elif m.tool_calls %}{% for c in m.tool_calls %}{% if c.function is defined %}{% set c = c.function %}{% endif %}<c>{"name": "{{ c.name }}", "arguments": {{ c.arguments | tojson }}}</c>{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}
{% for m in messages %}{{ m.content }};{% if m.content is none %}none{% endif %}{% if m.content is defined and m.content %}yes{% endif %}{% if 'tool_calls' in m and m.tool_calls is iterable %}{{ m.tool_calls | length }}{% endif %}{% endfor %}
{% for m in messages %}{% for c in m.tool_calls or [] %}{% for k, v in c.function.arguments | items %}{{ k }}={{ v if v is string else v | tojson }}{% endfor %}{% for k, v in c.function.arguments.items() %}{{ k }}{{ v }}{% endfor %}{% endfor %}{% endfor %}
{{ messages | tojson }}{{ messages }}{{ tools is iterable }}{{ tools | length }}{{ tools[0].function.parameters.properties }}
{% macro type(p) %}{% if p.enum %}{{ p.enum | map('tojson') | join(' | ') }}{% else %}{{ {'number': 'float', 'string': 'str'}[p.type] }}{% endif %}{% endmacro %}{% for t in tools %}{% for n, p in t.function.parameters.properties.items() %}{{ n }}{{ '?' if n not in t.function.parameters.required }}: {{ type(p) }}{{ ', ' if not loop.last }}{% endfor %}{% endfor %}
{{ extra }}{{ enable_thinking is defined and enable_thinking is false }}{{ builtin_tools is not defined }}
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


# Of a line that begins with an @, \\n is the end of a line.
real = lambda line: line[1:].replace("\\n", "\n") if line.startswith("@") else line
cases = [case(real(line), False) for line in PLAIN] + [case(line, True) for line in WITH_TOOLS]
chats = {"special": SPECIAL, "plain": CHAT, "tooled": TOOLED, "tools": TOOLS}
print(json.dumps({**chats, "further": {"extra": "more", "enable_thinking": False}, "cases": cases}, ensure_ascii=False, indent=1))
