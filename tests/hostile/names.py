"""Names that break things: of files that a disk can hold."""

from __future__ import annotations

#: By what is odd about them.
NAMES = {
    "URL characters": "a #?%25+ &=;:@,b.png",
    "encoded already": "%2e%2e%2fa%20b.png",
    "quotes": 'it\'s "quoted" `x` $HOME $(id).png',
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)>.png".replace("/", "-"),
    "entities": "&lt;b&gt; &amp; &#x41; ]]>.png",
    "newlines": "line\none\r\ntwo\ttab.png",
    "escape sequences": "\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b2J.png",
    "Rich markup": "[red]bold[-red] [link=x]y[-link].png",
    "emoji": "🐕‍🦺 👩🏽‍🚀 é.png",
    "right to left": "\u202egnp.exe\u202c \u05d0\u05d1 \u0627.png",
    "255 bytes": "ß" * 125 + "a.png",
    "upper case": "CASE.PNG",
    "lower case": "case.PNG",
    "composed": "caf\u00e9.png",
    "decomposed": "cafe\u0301.png",
    "dots": "a..b...c..png",
    "leading dash": "-rf --no.png",
    "leading hash": "#comment.png",
    "blanks": " leading and trailing .png",
    "backslashes": "a\\..\\..\\windows.png",
    "a drive": "C:a.png",
    "a scheme": "s3:b.png",
    "wildcards": "[a]*?.png",
    "variable": "{image_id} {{x}} %s $x.png",
    "non-characters": "a\ufffe\ufeffb\u2028c\u0085d.png",
}
