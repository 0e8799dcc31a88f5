class Dummy:
    def __init__(self, name: str):
        assert name == "cam_cinematic_placeholder"

    def get_pose(self):
        return [0.0] * 7
