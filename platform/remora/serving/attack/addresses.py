"""Addresses of pictures that no endpoint may ask: forms of loopback, of a cloud's metadata, of files."""

from __future__ import annotations


def forged(port: int) -> dict[str, str]:
    """URLs by name. Those that lead to this machine lead to `port`, where the listener is."""
    here = f"127.0.0.1:{port}"
    return {
        "loopback": f"http://{here}/a.png",
        "loopback by https": f"https://{here}/a.png",
        "localhost": f"http://localhost:{port}/a.png",
        "localhost with a dot": f"https://localhost.:{port}/a.png",
        "another of loopback": f"http://127.8.9.10:{port}/a.png",
        "short": f"http://127.1:{port}/a.png",
        "one number": f"http://2130706433:{port}/a.png",
        "octal": f"http://0177.0.0.1:{port}/a.png",
        "hexadecimal": f"https://0x7f000001:{port}/a.png",
        "any address": f"http://0.0.0.0:{port}/a.png",
        "ipv6": f"http://[::1]:{port}/a.png",
        "ipv6 mapped": f"https://[::ffff:127.0.0.1]:{port}/a.png",
        "ipv6 mapped, hexadecimal": f"http://[::ffff:7f00:1]:{port}/a.png",
        "other digits": f"http://①②⑦.⓪.⓪.①:{port}/a.png",
        "another full stop": f"https://127。0。0。1:{port}/a.png",
        "a user that looks like a host": f"https://example.org@{here}/a.png",
        "a user with a port": f"http://example.org:80@{here}/a.png",
        "a backslash (CVE-2026-24779)": f"https://{here}\\@example.org/a.png",
        "backslashes": f"https:\\\\{here}\\a.png",
        "a fragment": f"http://{here}#@example.org/a.png",
        "a space before": f" \thttp://{here}/a.png",
        "a line in it": f"ht\ntp://{here}/a.png",
        "no scheme": f"//{here}/a.png",
        "http in capitals": f"HTTP://{here}/a.png",
        "a redirect": f"http://{here}/redirect",
        "a redirect by https": f"https://{here}/redirect",
        "gopher": f"gopher://{here}/_FLUSHALL",
        "ftp": f"ftp://{here}/a.png",
        "metadata": "http://169.254.169.254/latest/meta-data/",
        "metadata by https": "https://169.254.169.254/latest/meta-data/",
        "metadata as one number": "http://2852039166/latest/meta-data/",
        "metadata by name": "http://metadata.google.internal/computeMetadata/v1/",
        "metadata by ipv6": "http://[fd00:ec2::254]/latest/meta-data/",
        "link-local": f"http://169.254.0.1:{port}/a.png",
        "a long url": "https://example.org/" + "a" * 500_000,
    }


FILES = {
    "a file": "file:///etc/passwd",
    "a file of localhost": "file://localhost/etc/passwd",
    "a file without slashes": "file:/etc/passwd",
    "capitals": "FILE:///etc/passwd",
    "a path": "/etc/passwd",
    "a way out": "../../../../etc/passwd",
    "a share": "\\\\127.0.0.1\\c$\\a.png",
    "php's": "php://filter/convert.base64-encode/resource=/etc/passwd",
    "a process": "file:///proc/self/environ",
}
