"""Outlines of buildings get straight sides and right angles, and neighbours stay neighbours."""
