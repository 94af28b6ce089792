"""One self-contained HTML page for a tuning run, or for several compared.

The page says what was asked, in words and as a formula; where base, policy and target stand, with
95 % intervals; how it went, curve by curve; where the policy lies between base and target; what it
writes now; and which of its own figures not to trust. It needs no network, no script and no other
file, and the same runs give the same bytes.

    reading   a run's files as the types of contents
    words     sentences, formulas and warnings
    tables    estimates in rows and columns
    figures   what is drawn, made fit for a page by svg
    specimens samples under their prompts
    page      all of it in the template page.html.jinja
"""

from attunement.report.page import write_page, write_report

__all__ = ["write_page", "write_report"]
