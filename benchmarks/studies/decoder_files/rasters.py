"""PNG, PNM and BMP images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import product

import numpy as np

from benchmarks.studies.decoder_files.samples import HEIGHT, WIDTH, DecoderCase, Samples, blend_with_white, ramps


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a PNG chunk (ISO/IEC 15948)."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def pack_rows(samples: Samples, bits: int) -> list[bytes]:
    """Pack samples [height, width, channels] into the rows of PNG and PNM, most significant bits first."""
    rows = samples.reshape(len(samples), -1)
    if bits >= 8:
        return [row.astype(f">u{bits // 8}").tobytes() for row in rows]
    digits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
    return [np.packbits(row).tobytes() for row in digits.reshape(len(rows), -1)]


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""Top, left, and the steps down and right of each pass."""


def pngs() -> Iterator[DecoderCase]:
    """Yield PNGs: colour type x depth x transparent colour x interlace."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    for colour, has_transparency, is_interlaced in product(channels, (False, True), (False, True)):
        for bits in depths[colour]:
            if has_transparency and colour > 3:
                continue
            samples = ramps(channels[colour], bits)
            values, extra_chunks = samples / (2**bits - 1), b""
            alpha = np.ones((HEIGHT, WIDTH, 1))
            if colour == 3:
                colours = np.random.default_rng(1).integers(0, 256, (2**bits, 3))
                extra_chunks = chunk(b"PLTE", colours.astype(np.uint8).tobytes())
                values = colours[samples[..., 0]] / 255
                if has_transparency:
                    alphas = np.linspace(0, 255, 2**bits).astype(np.uint8)
                    extra_chunks += chunk(b"tRNS", alphas.tobytes())
                    alpha = alphas[samples] / 255
            elif has_transparency:
                clear_colour = samples[9, 20]
                extra_chunks = chunk(b"tRNS", clear_colour.astype(">u2").tobytes())
                alpha = 1.0 - (samples == clear_colour).all(axis=2, keepdims=True)
            elif colour > 3:
                values, alpha = values[..., :-1], values[..., -1:]
            passes = ADAM7 if is_interlaced else [(0, 0, 1, 1)]
            parts = (samples[top::down, left::right] for top, left, down, right in passes)
            raw = b"".join(b"\0" + row for part in parts for row in pack_rows(part, bits))
            header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, is_interlaced)
            data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra_chunks
            data += chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
            suffixes = " tRNS" * has_transparency + " interlaced" * is_interlaced
            name = f"PNG colour {colour} depth {bits}{suffixes}"
            yield DecoderCase(name, data, blend_with_white(values, alpha), 2.1 if bits == 16 and colour > 3 else 1.01)


def pnms() -> Iterator[DecoderCase]:
    """Yield PNMs: binary and plain x maximum level, and the PNM formats that are not supported."""
    size = b"%d %d\n" % (WIDTH, HEIGHT)
    for channels, max_level, plain in product((1, 3), (1, 7, 100, 255, 256, 1000, 4095, 65535), (False, True)):
        samples = np.rint(ramps(channels, 16) / 65535 * max_level).astype(np.uint16)
        number = {1: 5, 3: 6}[channels] - 3 * plain
        body = samples.astype(np.uint8 if max_level < 256 else ">u2").tobytes()
        if plain:
            body = b"\n".join(b" ".join(b"%d" % level for level in row.ravel()) for row in samples)
        data = b"P%d\n# a comment\n" % number + size + b"%d\n" % max_level + body
        yield DecoderCase(f"P{number} of 0..{max_level}", data, samples / max_level * 255)
    bits = ramps(1, 1)
    yield DecoderCase("P4", b"P4\n" + size + b"".join(pack_rows(bits, 1)), 255 * (1 - bits))
    yield DecoderCase("P1", b"P1\n" + size + b" ".join(b"%d" % bit for bit in bits.ravel()), 255 * (1 - bits))
    rgba = ramps(4, 8)
    head = b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" % (WIDTH, HEIGHT)
    yield DecoderCase("PAM", head + rgba.tobytes(), blend_with_white(rgba[..., :3] / 255, rgba[..., 3:] / 255))
    for kind, channels in (("Pf", 1), ("PF", 3)):
        levels = ramps(channels, 8).astype("<f4") / 255
        data = kind.encode() + b"\n" + size + b"-1.0\n" + levels[::-1].tobytes()
        yield DecoderCase(f"PFM {kind}", data, levels * 255)


def bmp(bits: int, rows: list[bytes], masks: tuple[int, ...] = (), colours: bytes = b"", size: int = 40) -> bytes:
    """Return a BMP: rows from last to first, padded to four bytes. size: of the header."""
    body = b"".join(row + b"\0" * (-len(row) % 4) for row in reversed(rows))
    compression, palette = 3 if masks else 0, len(colours) // 4
    fields = struct.pack("<iiHHIIiiII", WIDTH, HEIGHT, 1, bits, compression, len(body), 0, 0, palette, 0)
    fields += struct.pack(f"<{len(masks)}I", *masks)
    header = struct.pack("<I", size) + fields + b"\0" * (size - 4 - len(fields)) + colours
    return struct.pack("<2sIHHI", b"BM", 14 + len(header) + len(body), 0, 0, 14 + len(header)) + header + body


ARGB = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
BMP_WORDS: tuple[tuple[str, str, tuple[int, ...], tuple[int, ...], int], ...] = (
    ("32, alpha unused", "ramp", (8, 8, 8), (), 40),
    ("32 with alpha, ramp", "ramp", (8, 8, 8), ARGB, 124),
    ("32 with alpha, opaque", "opaque", (8, 8, 8), ARGB, 124),
    ("32 with alpha, all clear", "clear", (8, 8, 8), ARGB, 124),
    ("32 of 10 bits", "clear", (10, 10, 10), (0x3FF00000, 0xFFC00, 0x3FF, 0), 108),
    ("16 555", "clear", (5, 5, 5), (), 40),
    ("16 565", "clear", (5, 6, 5), (0xF800, 0x7E0, 0x1F), 52),
)
"""Bits and description, stored alpha, bits of red, green and blue, masks, and size of the header."""


def bmps() -> Iterator[DecoderCase]:
    """Yield BMPs: bits x palettes, colour masks and alpha masks."""
    for bits, count in ((1, 2), (4, 16), (4, 2), (8, 256), (8, 16), (8, 2), (8, 1)):
        index = np.minimum(ramps(1, bits), count - 1)
        greys = np.repeat(np.arange(count)[:, None], 3, axis=1)
        palettes = {
            "colours": np.random.default_rng(2).integers(0, 256, (count, 3)),
            "even greys": np.rint(greys * 255 / max(count - 1, 1)),
            "greys from 0": greys,
        }
        for name, colours in palettes.items():
            stored = np.column_stack([colours[:, ::-1], np.zeros(count)]).astype(np.uint8).tobytes()
            data = bmp(bits, pack_rows(index, bits), colours=stored)
            yield DecoderCase(f"BMP {bits} bits, {count} {name}", data, colours[index[..., 0]].astype(np.uint8))
    rgb, ramp = ramps(3, 8), ramps(4, 8)[..., 3:].astype(np.uint32)
    yield DecoderCase("BMP 24", bmp(24, pack_rows(rgb[..., ::-1], 8)), rgb)
    alphas = {"ramp": ramp, "opaque": np.full_like(ramp, 255), "clear": np.zeros_like(ramp)}
    for name, alpha, sizes, masks, header in BMP_WORDS:
        channels = np.dstack([ramps(3, size)[..., channel] for channel, size in enumerate(sizes)]).astype(np.uint32)
        shifts = np.array([sizes[1] + sizes[2], sizes[2], 0], np.uint32)
        words = (channels << shifts).sum(axis=2, dtype=np.uint32) | alphas[alpha][..., 0] << 24
        bits, colours = int(name[:2]), channels / (2 ** np.array(sizes) - 1)
        data = bmp(bits, [row.astype(f"<u{bits // 8}").tobytes() for row in words], masks, size=header)
        truth = blend_with_white(colours, alphas[alpha] / 255) if masks == ARGB else colours * 255
        yield DecoderCase(f"BMP {name}", data, truth)
