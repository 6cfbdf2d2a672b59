"""A web page on loopback that classifies images: `server` hosts it, `page` draws it with Gradio (the [ui]
extra), `inference` classifies an image with timings, and `rendering` writes the result as HTML.
"""
