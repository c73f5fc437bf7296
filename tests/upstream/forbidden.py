"""Hosts by which an owner may try to reach what is the operator's own; every door to a host that an owner names refuses all of them."""

from __future__ import annotations

SPELLINGS = (
    # This machine, spelled in all the ways that some resolver takes.
    "127.0.0.1", "127.255.255.254", "localhost", "LOCALHOST", "mail.localhost", "localhost.", "2130706433", "0177.0.0.1", "0x7f.1",
    "0x7f000001", "127.1", "127.0.1", "127.0.0.01", "0", "0.0.0.0", "::1", "[::1]", "::", "0:0:0:0:0:0:0:1", "127.0.0.1.", "1.0x7f",
    # The same in IPv6's ways to write an IPv4 address.
    "::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::127.0.0.1", "2002:7f00:1::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe", "::ffff:0:127.0.0.1",
    # Letters that become digits and dots when they are normalised.
    "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "127\uff0e0\uff0e0\uff0e1", "\u2460\u2461\u2466.0.0.1", "\uff4cocalhost",
    "loca\u017fhost",
    "loc\u200balhost", "loc\u00adalhost",
    # Networks nobody outside can reach, and services of those who rent out machines.
    "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "169.254.1.1", "169.254.169.254", "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16", "fd00:ec2::254", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "::1%lo", "fec0::1", "ff02::1", "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1", "198.18.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "192.88.99.1", "5f00::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "fe80:0:0:0:0:0:0:1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1",
    # No host at all.
    "", " ", ".", "..", "-", "mail..example.com", ".example.com", "example.com.", "-a.example.com", "a-.example.com", "a_b.example.com",
    "user@127.0.0.1", "mail.example.com@127.0.0.1", "127.0.0.1/", "127.0.0.1:25", "mail.example.com/../", "http://127.0.0.1", "//127.0.0.1",
    "/var/run/mail.sock", "unix:/var/run/mail.sock", "mail.example.com\0.127.0.0.1", "127.0.0.1\0", " 127.0.0.1", "127.0.0.1 ",
    "\t127.0.0.1",
    "127.0.0.1\r\nRCPT TO:<a@example.com>", "mail.example.com\n", "127.0.0.1#mail.example.com", "127.0.0.1?", "127%2e0%2e0%2e1", "*",
    "a" * 64 + ".example",
    "a." * 127 + "example", "[10.0.0.1]", "[192.0.2.1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "08.8.8.8", "8.8.8.8.", "example.1",
    "example.0x1",
)  # fmt: skip
"""Refused by their looks, whatever the resolver says."""

LEADING_INSIDE = (
    "127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.100.100.200", "::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0",
    "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:a00:1::", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "168.63.129.16",
    "no address",
)  # fmt: skip
"""Where an innocent name may lead, by an A, AAAA or CNAME record of its owner's."""

OPEN = (
    "8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "172.32.0.1", "100.128.0.1", "169.253.1.1",
    "11.0.0.1",
    "mail.example.com", "MAIL.Example.COM", "xn--bcher-kva.example", "b\u00fccher.example", "a", "1.e100.example", "a-b.c-d.example",
    "3com.example",
)  # fmt: skip
"""What is nobody's inside, where the resolver leads to an ordinary address."""
