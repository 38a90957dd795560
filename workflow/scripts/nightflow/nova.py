"""Engine ``nova``: the web service of astrometry.net, which gets the positions of the sources and nothing else."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping

import numpy as np
from astropy.io import fits

from nightflow import astrometry_net, plates, pointing
from nightflow.plate_matching import Stars
from nightflow.plates import Plate
from nightflow.pointing import Pointing
from nightflow.steps import UserError

#: The variable with the user's key, as for the service's own client; what the configuration says is put there.
KEY_VARIABLE = "AN_API_KEY"
_LONGEST_REQUEST = 60.0  # s


class Unsolved(Exception):
    """The service found no solution; the message says so."""


class NoService(Exception):
    """The service could not be reached, or did not answer in time; the message says which."""


def key_of_user() -> str:
    """The user's key, from the environment.

    Raises
    ------
    UserError
        If there is none.
    """
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        raise UserError(
            f"astrometry.engine is nova, which needs the key of your account: set the variable {KEY_VARIABLE} "
            "or astrometry.api_key"
        )
    return key


def solve(stars: Stars, shape: tuple[int, int], hints: Pointing, options: Mapping) -> Plate:
    """Plate solution by the web service.

    Parameters
    ----------
    stars : `~nightflow.plate_matching.Stars`
        Brightest first.
    shape : tuple of int
        (ny, nx).
    hints : `~nightflow.pointing.Pointing`
        What is unknown is not handed on.
    options : mapping
        Section ``astrometry``: ``server``, ``search_radius``, ``scale_tolerance``, ``sip_order``, ``time_limit``.

    Returns
    -------
    `~nightflow.plates.Plate`

    Raises
    ------
    Unsolved, NoService
    UserError
        If there is no key, or the service refuses it.
    """
    import requests
    from astroquery.exceptions import TimeoutError as TookTooLong

    server, ny, nx = options["server"].rstrip("/"), *shape
    service = _service(server, key_of_user(), options["time_limit"])
    stars = stars[astrometry_net.spread(stars, shape)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the form of the header
            service.log_in()
            header = service.solve_from_source_list(
                stars.x + 1, stars.y + 1, nx, ny,
                solve_timeout=options["time_limit"], verbose=False, **_settings(shape, hints, options),
            )  # fmt: skip
    except TookTooLong as error:
        raise NoService(f"{server} did not solve it within {options['time_limit']:g} s") from error
    except requests.Timeout as error:
        raise NoService(f"{server} did not answer in time") from error
    except requests.HTTPError as error:
        raise NoService(f"{server} answered with HTTP {error.response.status_code}") from error
    except requests.ConnectionError as error:
        raise NoService(f"{server} cannot be reached") from error
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:  # answers that are not of this service
        raise NoService(f"{server} gave an answer that cannot be understood") from error
    return _plate(header, server, shape, options["sip_order"])


def _plate(header: fits.Header | dict, server: str, shape: tuple[int, int], order: int) -> Plate:
    if not header:
        raise Unsolved(f"{server} found no match")
    wcs = pointing.celestial_wcs(header)
    try:
        if wcs is None:
            raise ValueError
        return plates.from_wcs(wcs, shape, max(order, 1))
    except ValueError as error:
        raise Unsolved(f"{server} gave a solution that cannot be used") from error


def _service(server: str, key: str, time_limit: float):
    """Client of a server that waits for no request longer than the time limit and remembers no answer."""
    from astroquery.astrometry_net import AstrometryNetClass

    class Service(AstrometryNetClass):
        URL, API_URL = server, f"{server}/api"
        api_key = key

        def log_in(self):
            answer = self._request(
                "POST", f"{self.API_URL}/login", data=self._construct_payload({"apikey": key})
            ).json()
            if answer.get("status") != "success":
                raise UserError(f"{server} refuses the key in {KEY_VARIABLE} or astrometry.api_key")
            self._session_id = answer["session"]

        def _request(self, *args, **kwargs):
            limits = {"timeout": min(time_limit, _LONGEST_REQUEST), "cache": False}
            response = super()._request(*args, **{**kwargs, **limits})
            response.raise_for_status()
            return response

    return Service()


def _settings(shape: tuple[int, int], hints: Pointing, options: Mapping) -> dict:
    settings = {"publicly_visible": "n", "allow_modifications": "n", "allow_commercial_use": "n"}
    settings |= {"crpix_center": True, "tweak_order": max(options["sip_order"], 2)}
    radius, (ny, nx) = options["search_radius"], shape
    if hints.scale is not None:
        scale, factor = float(np.sqrt(np.prod(hints.scale))), 1 + options["scale_tolerance"]
        settings |= {"scale_units": "arcsecperpix", "scale_type": "ul"}
        settings |= {"scale_lower": scale / factor, "scale_upper": scale * factor}
        radius += float(np.hypot(nx * hints.scale[0], ny * hints.scale[1])) / 2 / 3600
    if hints.ra is not None and hints.dec is not None:
        settings |= {"center_ra": float(hints.ra), "center_dec": float(hints.dec), "radius": radius}
    return settings
