"""The style sheet of the page: colours that can be told apart in light and dark, also by the colour-blind."""

STYLE = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1b1f24; --soft: #667; --line: #d5d9e0; --panel: #f5f6f8;
  --a: #0072b2; --b: #008a63; --c: #9c5fb5; --d: #d55e00; --e: #667; --hit: 0 138 99; --miss: 213 94 0; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171c; --fg: #e4e7ec; --soft: #9aa3b0; --line: #343a44;
  --panel: #1d2128; --a: #56b4e9; --b: #2fc497; --c: #cc9be0; --d: #f08a3c; --e: #9aa3b0; } }
body { margin: 0 auto; padding: 1rem 1.25rem 4rem; max-width: 76rem; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.5rem; } h2 { margin: 2.2rem 0 .6rem; font-size: 1.15rem; }
p { margin: .4rem 0; max-width: 60rem; overflow-wrap: anywhere; } .lead { color: var(--soft); }
.note { padding: .3rem .7rem; border-left: 3px solid var(--d); background: var(--panel); }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.cards div { flex: 1 1 8rem; padding: .7rem .9rem; border-radius: .5rem; background: var(--panel); }
.cards b { display: block; font-size: 1.6rem; line-height: 1.2; } .cards span { color: var(--soft); font-size: .85rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: flex-start; }
figure { margin: 0; max-width: 27rem; } svg { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } svg text.small { font-size: 10px; }
.grid { stroke: var(--line); stroke-width: 1; } .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.rule { stroke-width: 1.5; stroke-dasharray: 4 3; } .dot { stroke: var(--bg); stroke-width: 1.5; }
.line.a, .rule.a { stroke: var(--a); } .line.b, .rule.b { stroke: var(--b); } .line.c, .rule.c { stroke: var(--c); }
.line.d, .rule.d { stroke: var(--d); } .line.e, .rule.e { stroke: var(--e); }
.dot.a, .bar.a { fill: var(--a); } .dot.b, .bar.b { fill: var(--b); } .dot.c, .bar.c { fill: var(--c); }
.dot.d, .bar.d { fill: var(--d); } .key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; }
.key.a { background: var(--a); } .key.b { background: var(--b); } .key.c { background: var(--c); }
.key.d { background: var(--d); } .legend { font-size: .85rem; color: var(--soft); }
.legend span { margin-right: 1rem; white-space: nowrap; }
.wide { overflow-x: auto; max-width: 100%; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); font-weight: 400; }
thead th { color: var(--soft); font-size: .85rem; vertical-align: bottom; }
th.name, thead th:first-child { text-align: left; max-width: 22rem; min-width: 8rem; overflow-wrap: anywhere; }
.confusion td { min-width: 1.6rem; padding: .15rem .3rem; text-align: center; border: 1px solid var(--line); }
.confusion td.hit { background: rgb(var(--hit) / calc(var(--s) * .6)); }
.confusion td.miss { background: rgb(var(--miss) / calc(var(--s) * .6)); }
.confusion th { padding: .15rem .4rem; white-space: nowrap; }
.turned { height: 7.5rem; vertical-align: bottom; } .turned > * { display: inline-block; writing-mode: vertical-rl;
  transform: rotate(180deg); max-height: 8.5rem; overflow: hidden; text-overflow: ellipsis; }
.classes { display: grid; grid-template-columns: repeat(auto-fill, minmax(390px, 1fr)); gap: 1rem; }
.classes figure { display: flex; flex-wrap: wrap; } .classes figcaption { flex: 1 0 100%; overflow-wrap: anywhere; }
@media (max-width: 480px) { .classes { grid-template-columns: 1fr; } }
"""
