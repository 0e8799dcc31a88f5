class ReachTarget:
    def variation_count(self) -> int:
        return 18
