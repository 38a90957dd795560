"""The same night as other observatories write it: dialects of the simulator, for tests."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from nightflow import simulate_headers

#: Cards that every dialect here shares.
_SHARED = [
    ("EXPTIME", "exptime", "[s]"),
    ("AIRMASS", "airmass", ""),
]

LCO = {
    "kinds": {"bias": "BIAS", "dark": "DARK", "flat": "SKYFLAT", "light": "EXPOSE"},
    "constants": [("ORIGIN", "LCOGT", ""), ("SITEID", "lsc", ""), ("PEDESTAL", "N/A", "")],
    "cards": [
        *_SHARED,
        ("OBSTYPE", "kind", ""),
        ("OBJECT", "target", ""),
        ("FILTER", "filter", ""),
        ("DATE-OBS", "date_obs", "[UTC]"),
        ("RA", "ra_sexagesimal", ""),
        ("DEC", "dec_sexagesimal", ""),
        ("CCDATEMP", "temperature", "[deg C]"),
        ("CCDSUM", "ccdsum", ""),
        ("GAIN", "gain", "[electron/adu]"),
        ("RDNOISE", "read_noise", "[electron]"),
        ("SATURATE", "saturation", "[adu]"),
        ("TRIMSEC", "trim_section", ""),
        ("BIASSEC", "bias_section", ""),
        ("INSTRUME", "instrument", ""),
        ("TELESCOP", "telescope", ""),
        ("LATITUDE", "site_latitude", ""),
        ("LONGITUD", "site_longitude", ""),
        ("HEIGHT", "site_height", ""),
    ],
    "extension": 1,
}

NOIRLAB = {
    "kinds": {"bias": "zero", "dark": "dark", "flat": "dome flat", "light": "object"},
    "constants": [("OBSERVAT", "CTIO", ""), ("PROCTYPE", "Raw", "")],
    "cards": [
        *_SHARED,
        ("OBSTYPE", "kind", ""),
        ("OBJECT", "target", ""),
        ("FILTER", "filter", ""),
        ("DATE-OBS", "date", ""),
        ("TIME-OBS", "time", ""),
        ("RA", "ra_sexagesimal", ""),
        ("DEC", "dec_sexagesimal", ""),
        ("CCDTEMP", "temperature_kelvin", "[K]"),
        ("CCDSUM", "ccdsum", ""),
        ("GAIN", "gain", "[electron/adu]"),
        ("RDNOISE", "read_noise", "[electron]"),
        ("SATURATE", "saturation", "[adu]"),
        ("TRIMSEC", "trim_section", ""),
        ("BIASSEC", "bias_section", ""),
        ("INSTRUME", "instrument", ""),
        ("TELESCOP", "telescope", ""),
        ("OBS-LAT", "site_latitude", ""),
        ("OBS-LONG", "longitude_west", ""),
        ("OBS-ELEV", "site_height", ""),
    ],
}

ESO = {
    "kinds": {"bias": "BIAS", "dark": "DARK", "flat": "FLAT,SKY", "light": "OBJECT"},
    "constants": [("ORIGIN", "ESO", ""), ("HIERARCH ESO DPR CATG", "CALIB", "")],
    "cards": [
        ("EXPTIME", "exptime", "[s]"),
        ("HIERARCH ESO TEL AIRM START", "airmass", ""),
        ("HIERARCH ESO DPR TYPE", "kind", ""),
        ("HIERARCH ESO OBS TARG NAME", "target", ""),
        ("HIERARCH ESO INS FILT1 NAME", "filter", ""),
        ("DATE-OBS", "date_obs", ""),
        ("RA", "ra", "[deg]"),
        ("DEC", "dec", "[deg]"),
        ("HIERARCH ESO DET CHIP1 TEMP", "temperature_kelvin", "[K]"),
        ("HIERARCH ESO DET WIN1 BINX", "binning", ""),
        ("HIERARCH ESO DET WIN1 BINY", "binning", ""),
        ("HIERARCH ESO DET OUT1 CONAD", "gain", "[electron/adu]"),
        ("HIERARCH ESO DET OUT1 RON", "read_noise", "[electron]"),
        ("HIERARCH ESO DET OUT1 OVSCX", "overscan_columns", "[px]"),
        ("SATURATE", "saturation", "[adu]"),
        ("INSTRUME", "instrument", ""),
        ("TELESCOP", "telescope", ""),
        ("HIERARCH ESO TEL GEOLAT", "site_latitude", ""),
        ("HIERARCH ESO TEL GEOLON", "site_longitude", ""),
        ("HIERARCH ESO TEL GEOELEV", "site_height", ""),
    ],
}

MICROOBSERVATORY = {
    "kinds": dict.fromkeys(("bias", "dark", "flat", "light"), ""),
    "constants": [("CREATOR", "MicroObservatory2014-05-23", ""), ("INSTRUME", "Main", "")],
    "cards": [
        *_SHARED,
        ("OBJECT", "target_or_kind", ""),
        ("FILTER", "filter", ""),
        ("DATE-OBS", "date_local", "LT"),
        ("UT-OBS", "date_with_zone", "UT"),
        ("RA", "ra", "[deg]"),
        ("DEC", "dec", "[deg]"),
        ("CAMTEMP", "temperature_kelvin", "[K]"),
        ("EGAIN", "gain", "[electron/adu]"),
        ("RDNOISE", "read_noise", "[electron]"),
        ("SATURATE", "saturation", "[adu]"),
        ("TRIMSEC", "trim_section", ""),
        ("BIASSEC", "bias_section", ""),
        ("TELESCOP", "telescope", ""),
        ("LATITUDE", "site_latitude", ""),
        ("LONGITUD", "longitude_west", ""),
    ],
}

DIALECTS = {"lco": LCO, "noirlab": NOIRLAB, "eso": ESO, "microobservatory": MICROOBSERVATORY, "maxim": "maxim"}


def more_spellings(facts: dict) -> dict:
    """Facts of a simulated frame as further observatories write them."""
    local = datetime.fromisoformat(facts["date_obs"]) + timedelta(hours=-7)
    section = facts["bias_section"]
    columns = [int(x) for x in re.findall(r"\d+", section)[:2]] if section else None
    return {
        "ccdsum": "1 1",
        "longitude_west": -facts["site_longitude"],
        "target_or_kind": facts["target"] or facts["kind"].capitalize(),
        "date_local": local.isoformat(timespec="milliseconds") + "-0700",
        "date_with_zone": facts["date_obs"] + "-0000",
        "overscan_columns": columns[1] - columns[0] + 1 if columns else None,
    }


def write_night(night, folder, definition) -> None:
    """All frames of a simulated night in a dialect: a name that the simulator knows, or a definition from here."""
    definition = simulate_headers.dialect(definition)
    folder.mkdir()
    for exposure in night.plan:
        frame = night.expose(exposure)
        header = simulate_headers.header_of({**frame.facts, **more_spellings(frame.facts)}, definition)
        simulate_headers.hdus_of(frame.raw, header, definition).writeto(folder / f"{exposure.name}.fits")
