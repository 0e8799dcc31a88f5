class Discrete:
    def __init__(self, attach_grasped_objects: bool = True, detach_before_open: bool = True):
        pass
