class JointPosition:
    def __init__(self, absolute_mode: bool = True):
        self._absolute_mode = absolute_mode
