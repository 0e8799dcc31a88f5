class OpenDrawer:
    def variation_count(self) -> int:
        return 3
