"""Stand-ins on this machine for two web services: VizieR and nova.astrometry.net, as far as nightflow talks to them."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import numpy as np

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<VOTABLE version="1.4" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xmlns="http://www.ivoa.net/xml/VOTable/v1.3"
  xsi:schemaLocation="http://www.ivoa.net/xml/VOTable/v1.3 http://www.ivoa.net/xml/VOTable/v1.3">
<DESCRIPTION>
   VizieR Astronomical Server
    Date: 2024-03-08T20:11:12 [V7.4]
</DESCRIPTION>
<INFO ID="VERSION" name="votable-version" value="1.99"/>
<INFO ID="MaxTuples" name="-out.max" value="1000000"/>
"""
_FIELD = """    <FIELD name="{name}" ucd="phys" datatype="double" width="14" precision="8" unit="{unit}">
      <DESCRIPTION>column {name}</DESCRIPTION>
    </FIELD>
"""


def votable(table: str, columns: dict) -> str:
    """An answer in the shape of VizieR's; NaN is an empty cell. Without rows there is no table in it."""
    names, resource = list(columns), table.rsplit("/", 1)[0]
    if not len(columns[names[0]]):
        return _HEAD + "</VOTABLE>\n"
    rows = zip(*columns.values(), strict=True)
    cells = ("".join(f"<TD>{'' if np.isnan(v) else format(v, '.9f')}</TD>" for v in row) for row in rows)
    text = f'<RESOURCE ID="yCat" name="{resource}">\n  <COOSYS ID="H_2016.000" system="ICRS" epoch="2016.000"/>\n'
    text += f'  <TABLE ID="t" name="{table}">\n'
    text += "".join(_FIELD.format(name=name, unit="mag" if "mag" in name else "deg") for name in names)
    text += "<DATA><TABLEDATA>\n" + "\n".join(f"<TR>{row}</TR>" for row in cells)
    return _HEAD + text + "\n</TABLEDATA></DATA>\n</TABLE>\n</RESOURCE>\n</VOTABLE>\n"


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def body(self) -> str:
        return self.rfile.read(int(self.headers["Content-Length"])).decode()

    def answer(self, content: str, status: int = 200) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content.encode())


@contextmanager
def serving(handler):
    """Address of a server with this handler class, while the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def vizier(tables: dict, asked: list, fails: int = 0, instead: str | None = None):
    """Handler of a VizieR with `tables` (name -> (columns, ra column, dec column)).

    Questions are appended to `asked` as dicts. The first `fails` are answered with HTTP 503; `instead` is given as the
    answer to all, if it is not None.
    """

    class VizieR(_Quiet):
        def do_POST(self):
            question = dict(line.split("=", 1) for line in self.body().splitlines() if "=" in line)
            asked.append({"path": self.path, **question})
            if len(asked) <= fails:
                return self.answer("busy", 503)
            if instead is not None:
                return self.answer(instead)
            columns, ra, dec = tables.get(question["-source"], ({"x": np.zeros(0)}, "x", "x"))
            return self.answer(votable(question["-source"], _selected(columns, ra, dec, question)))

    return VizieR


def _selected(columns: dict, ra: str, dec: str, question: dict) -> dict:
    from nightflow.reference_catalogues import separation

    place = question["-c"]
    sign = max(place.find("+"), place.find("-", 1))
    inside = separation(columns[ra], columns[dec], float(place[:sign]), float(place[sign:])) <= float(question["-c.rd"])
    for name, values in columns.items():
        if question.get(name, "").startswith("<"):
            inside &= values < float(question[name][1:])
    wanted = question["-out"].split(",")
    return {name: np.asarray(values)[inside] for name, values in columns.items() if name in wanted}


def astrometry_net(solution, asked: list, key: str = "secret", verdict: str = "success", polls: int = 0):
    """Handler of an astrometry.net that answers a submission with the header ``solution(submission)``.

    Submissions are appended to `asked`. The first `polls` questions after a job find it still solving.
    """

    class AstrometryNet(_Quiet):
        left = polls

        def do_POST(self):
            request = json.loads(parse_qs(self.body())["request-json"][0])
            if self.path == "/api/login":
                good = request["apikey"] == key
                return self.answer(json.dumps({"status": "success", "session": "s1"} if good else {"status": "error"}))
            asked.append(request)
            return self.answer(json.dumps({"status": "success", "subid": len(asked) - 1 + 100}))

        def do_GET(self):
            match self.path.strip("/").split("/"):
                case ["api", "submissions", number]:
                    return self.answer(json.dumps({"jobs": [int(number) + 100]}))
                case ["api", "jobs", _, "info"]:
                    type(self).left -= 1
                    return self.answer(json.dumps({"status": "solving" if type(self).left >= 0 else verdict}))
                case ["wcs_file", number]:
                    return self.answer(solution(asked[int(number) - 200]).tostring())
            return self.answer("no such page", 404)

    return AstrometryNet
