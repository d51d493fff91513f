"""Says where the family is; nothing that it needs is imported before it is used."""

import jaxdistill as jd


def register():
    jd.register_family("capped_llama", "capped_llama:FAMILY")
