"""How the reference looks: light and dark, on a phone and on a desk."""

from __future__ import annotations

STYLE = """
:root { --ink: #1c2430; --soft: #5a6675; --line: #dfe4ea; --page: #fff; --panel: #f6f8fa; --link: #0b57a4;
  --get: #0b57a4; --post: #1a6b3c; --put: #8a5300; --delete: #a8231c }
@media (prefers-color-scheme: dark) { :root { --ink: #dde3ea; --soft: #98a4b3; --line: #2b343f; --page: #12171d; --panel: #1a2129;
  --link: #78b4f5; --get: #78b4f5; --post: #6cc993; --put: #e0ac5c; --delete: #f28b82 } }
* { box-sizing: border-box }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif }
a { color: var(--link); text-decoration: none }
a:hover { text-decoration: underline }
small { font-size: .84em; font-weight: 400; color: var(--soft) }
code, pre { font-family: ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; font-size: .875em; overflow-wrap: anywhere }
p code { background: var(--panel); border-radius: 3px; padding: .1em .3em }
ul { list-style: none; margin: 0; padding: 0 }
main { max-width: 60rem; padding: 1.5rem 1.25rem 4rem }
h1 { font-size: 1.9rem; margin: 0 0 .5rem; letter-spacing: -.01em }
h1 small { display: block; font-size: 1rem; letter-spacing: 0 }
h2 { font-size: 1.4rem; margin: 3rem 0 0; padding-bottom: .4rem; border-bottom: 2px solid var(--ink) }
h3 { font-size: 1.05rem; margin: 0 }
h3 a { display: flex; gap: .7rem; align-items: baseline; color: inherit }
h4 { font-size: .8rem; text-transform: uppercase; letter-spacing: .06em; color: var(--soft); margin: 1.4rem 0 .3rem }
article { padding: 1.8rem 0; border-bottom: 1px solid var(--line) }
article > p { margin: .5rem 0 }
h3 b, nav li b { font-size: .75rem; letter-spacing: .04em }
h3 b { border: 1px solid; border-radius: 4px; padding: .1rem .45rem }
.get { color: var(--get) } .post { color: var(--post) } .put, .patch { color: var(--put) } .delete { color: var(--delete) }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; margin: 1rem 0;
  white-space: pre-wrap; line-height: 1.6 }
article li { padding: .5rem 0; border-top: 1px solid var(--line) }
article li > code { font-weight: 600 }
article li small { margin-left: .3rem }
article li p { margin: .15rem 0 0; font-size: .92rem }
article li ul { margin: .5rem 0 0; padding-left: 1rem; border-left: 2px solid var(--line) }
article li p.bounds, .media { color: var(--soft); font-size: .86rem; margin: .1rem 0; overflow-wrap: anywhere }
strong { font-size: .78rem; font-weight: 600; color: var(--delete); margin-left: .4rem }
.answers li { display: flex; gap: .9rem; font-size: .92rem; padding: .25rem 0; border: 0 }
.answers b { font-variant-numeric: tabular-nums }
details { margin-top: .8rem; border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem }
summary { cursor: pointer; font-weight: 600; font-size: .9rem }
nav { padding: 1.25rem; border-bottom: 1px solid var(--line); background: var(--panel) }
nav ul { display: none }
nav .home { display: block; font-weight: 700; font-size: 1.1rem; color: inherit; margin-bottom: .6rem }
nav .family { display: inline-block; margin: .1rem 1rem .1rem 0; padding: .25rem 0; font-weight: 600 }
@media (min-width: 64rem) {
  body { display: grid; grid-template-columns: 21rem minmax(0, 1fr) }
  nav { position: sticky; top: 0; height: 100vh; overflow-y: auto; padding: 1.75rem 1.25rem;
    border: 0; border-right: 1px solid var(--line) }
  nav .family { display: block; margin: 1.2rem 0 .2rem; color: inherit }
  nav ul { display: block }
  nav li a { display: grid; grid-template-columns: 3.6rem 1fr; align-items: baseline; padding: .16rem 0; color: inherit; font-size: .92rem }
  main { padding: 2.5rem 3.5rem 6rem }
}
@media print { nav { display: none } body { display: block } }
"""
