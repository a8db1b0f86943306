"""What the black-box tests share: the proxy process, scripted origins, a raw client, other parsers as
judges."""
