class PyRep:
    pass
