"""A page on loopback to look at answers: what it asks (`asking`), what it says of it (`showing`), the page
itself (`page`, which needs the [ui] extra) and who may open it (`hosting`).
"""
