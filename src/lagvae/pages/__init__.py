"""Pages for a browser: single HTML files that hold all they show and need no network.

Templates are of Jinja2, which escapes whatever is put into them; charts are of Vega-Altair. This package knows neither runs nor
comparisons: who has something to show makes its charts and names a template.
"""
