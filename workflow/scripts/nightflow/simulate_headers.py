"""Headers of simulated frames, in the dialect of a camera: keywords as data.

A dialect names the cards in order, each with the fact that it holds and a comment; facts that do not apply to a
frame (the filter of a bias) leave their card out. A dialect of one's own is a dictionary of the same form.
"""

from __future__ import annotations

from astropy.io import fits

#: Dialects by name. ``kinds``: what the kind of a frame is called; ``cards``: keyword, fact, comment;
#: ``constants``: cards that are always the same; ``extension``: the HDU that holds the image.
DIALECTS = {
    "generic": {
        "kinds": {"bias": "bias", "dark": "dark", "flat": "flat", "light": "light"},
        "cards": [
            ("IMAGETYP", "kind", "type of frame"),
            ("OBJECT", "target", "target"),
            ("FILTER", "filter", "filter"),
            ("EXPTIME", "exptime", "[s] exposure time"),
            ("DATE-OBS", "date_obs", "UT at start of exposure"),
            ("RA", "ra_sexagesimal", "[h m s] pointing, ICRS"),
            ("DEC", "dec_sexagesimal", "[d m s] pointing, ICRS"),
            ("AIRMASS", "airmass", "at mid-exposure"),
            ("CCD-TEMP", "temperature", "[deg C] of the detector"),
            ("XBINNING", "binning", ""),
            ("YBINNING", "binning", ""),
            ("GAIN", "gain", "[electron/adu]"),
            ("RDNOISE", "read_noise", "[electron]"),
            ("SATURATE", "saturation", "[adu]"),
            ("BIASSEC", "bias_section", "overscan"),
            ("TRIMSEC", "trim_section", "pixels that see light"),
            ("INSTRUME", "instrument", ""),
            ("TELESCOP", "telescope", ""),
            ("SITELAT", "site_latitude", "[deg]"),
            ("SITELONG", "site_longitude", "[deg] east"),
            ("SITEELEV", "site_height", "[m]"),
        ],
    },
    "maxim": {
        "kinds": {"bias": "Bias Frame", "dark": "Dark Frame", "flat": "Flat Field", "light": "Light Frame"},
        "constants": [
            ("SBSTDVER", "SBFITSEXT Version 1.0", "version of the header's standard"),
            ("SWCREATE", "MaxIm DL Version 6.26 (simulated)", "software"),
            ("PEDESTAL", 0, "[adu] add to remove the pedestal"),
            ("CBLACK", 400, "display"),
            ("CWHITE", 4000, "display"),
        ],
        "cards": [
            ("IMAGETYP", "kind", ""),
            ("OBJECT", "target_or_blank", ""),
            ("FILTER", "filter", ""),
            ("EXPTIME", "exptime", "[s]"),
            ("EXPOSURE", "exptime", "[s]"),
            ("DATE-OBS", "date_obs", "UT at start of exposure"),
            ("OBJCTRA", "ra_spaced", ""),
            ("OBJCTDEC", "dec_spaced", ""),
            ("AIRMASS", "airmass", ""),
            ("SET-TEMP", "temperature", "[deg C]"),
            ("CCD-TEMP", "temperature", "[deg C]"),
            ("XBINNING", "binning", ""),
            ("YBINNING", "binning", ""),
            ("XORGSUBF", "window_origin", ""),
            ("YORGSUBF", "window_origin", ""),
            ("EGAIN", "gain", "[electron/adu]"),
            ("RDNOISE", "read_noise", "[electron]"),
            ("SATURATE", "saturation", "[adu]"),
            ("BIASSEC", "bias_section", ""),
            ("TRIMSEC", "trim_section", ""),
            ("INSTRUME", "instrument", ""),
            ("TELESCOP", "telescope", ""),
            ("SITELAT", "latitude_spaced", ""),
            ("SITELONG", "longitude_spaced", ""),
        ],
    },
}


def dialect(name_or_definition: str | dict) -> dict:
    """A dialect by name, or a definition of the same form as it is.

    Raises
    ------
    ValueError
        For a name that is not known.
    """
    if isinstance(name_or_definition, dict):
        return name_or_definition
    if name_or_definition not in DIALECTS:
        raise ValueError(f"simulate.dialect: unknown '{name_or_definition}'; known are {', '.join(DIALECTS)}")
    return DIALECTS[name_or_definition]


def header_of(facts: dict, definition: dict) -> fits.Header:
    """Header of a frame.

    Parameters
    ----------
    facts : dict
        Values by standard name; None where one does not apply.
    definition : dict
        A dialect.
    """
    values = {**facts, **_spellings(facts), "kind": definition["kinds"][facts["kind"]]}
    header = fits.Header()
    for keyword, fact, comment in definition["cards"]:
        if values.get(fact) is not None:
            header[keyword] = (values[fact], comment)
    for keyword, value, comment in definition.get("constants", []):
        header[keyword] = (value, comment)
    return header


def hdus_of(pixels, header: fits.Header, definition: dict) -> fits.HDUList:
    """The HDUs of a raw file, the image in the dialect's extension."""
    extension = definition.get("extension", 0)
    if extension == 0:
        return fits.HDUList([fits.PrimaryHDU(pixels, header)])
    empty = [fits.ImageHDU() for _ in range(extension - 1)]
    return fits.HDUList([fits.PrimaryHDU(header=header), *empty, fits.ImageHDU(pixels)])


def _spellings(facts: dict) -> dict:
    """The same facts as other cameras write them."""
    date, time = facts["date_obs"].split("T")
    spellings = {
        "date": date,
        "time": time,
        "target_or_blank": facts["target"] or "",
        "window_origin": 0,
        "temperature_kelvin": round(facts["temperature"] + 273.15, 2),
        "latitude_spaced": sexagesimal(facts["site_latitude"], 0, " "),
        "longitude_spaced": sexagesimal(facts["site_longitude"], 0, " "),
    }
    if facts["ra"] is not None:
        spellings |= {
            "ra_sexagesimal": sexagesimal(facts["ra"] / 15, 2, ":", signed=False),
            "dec_sexagesimal": sexagesimal(facts["dec"], 1, ":"),
            "ra_spaced": sexagesimal(facts["ra"] / 15, 2, " ", signed=False),
            "dec_spaced": sexagesimal(facts["dec"], 1, " "),
        }
    return spellings


def sexagesimal(value: float, decimals: int, separator: str, signed: bool = True) -> str:
    """`value` as degrees or hours, minutes and seconds."""
    unit = 10**decimals
    total = round(abs(value) * 3600 * unit)
    minutes, seconds = divmod(total, 60 * unit)
    whole, minutes = divmod(minutes, 60)
    width = 2 if decimals == 0 else 3 + decimals
    sign = ("-" if value < 0 else "+") if signed else ""
    return f"{sign}{whole:02d}{separator}{minutes:02d}{separator}{seconds / unit:0{width}.{decimals}f}"
